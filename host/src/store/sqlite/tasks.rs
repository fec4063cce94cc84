//! Tasks, and their slices: what a slice does to rows is written with the step of the task's cursor.

use rusqlite::params;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqlitePool};
use uuid::Uuid;

use super::accept::{self, Accepting};
use super::admin::Keep;
use super::read::{self, json, time};
use super::walk::time_of;
use super::words::Word;
use super::writer::Tx;
use super::{answers, bulk, to_json};
use crate::fault::{self, Point};
use crate::model::{
    BatchId, CredentialId, DeliveryId, LeadId, ProjectId, Task, TaskError, TaskId, TaskKind, TaskProgress, TaskStatus, Timestamp,
};
use crate::store::{Accepted, Changed, Intake, KEPT_ERRORS, Page, Slice, SliceWork, Sliced, StoreError, Written};

pub(super) async fn create(tx: &mut Tx, task: &Task, keep: &Keep) -> Result<Written<()>, StoreError> {
    if let Some(before) = answers::before(tx, keep.as_ref(), task.created_at).await? {
        return Ok(before);
    }
    let progress = &task.progress;
    sqlx::query(INSERT)
        .bind(task.id.uuid())
        .bind(task.project.map(|id| id.uuid()))
        .bind(task.kind.word())
        .bind(task.status.word())
        .bind(to_json(&task.asked)?)
        .bind(task.rate)
        .bind(progress.total as i64)
        .bind(task.cursor.clone())
        .bind(task.correlation.clone())
        .bind(task.created_at.as_millis())
        .bind(task.finished_at.map(Timestamp::as_millis))
        .execute(&mut tx.conn)
        .await?;
    answers::after(tx, keep.as_ref()).await?;
    Ok(Written::New(()))
}

const INSERT: &str = "
insert into tasks (id, project_id, kind, status, asked, rate, total, cursor, correlation, created_at, finished_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";

fn task_row(row: &SqliteRow) -> Result<Task, StoreError> {
    let number = |column: usize| Ok::<u64, StoreError>(row.try_get::<i64, _>(column)?.max(0) as u64);
    Ok(Task {
        id: TaskId::from_uuid(row.try_get(0)?),
        project: row.try_get::<Option<_>, _>(1)?.map(ProjectId::from_uuid),
        kind: TaskKind::read(row.try_get(2)?)?,
        status: TaskStatus::read(row.try_get(3)?)?,
        asked: json(row.try_get(4)?)?,
        rate: row.try_get(5)?,
        progress: TaskProgress {
            total: number(6)?,
            done: number(7)?,
            changed: number(8)?,
            errors: number(9)?,
            first_errors: json(row.try_get(10)?)?,
        },
        cursor: row.try_get(11)?,
        correlation: row.try_get(12)?,
        created_at: time(row.try_get(13)?),
        finished_at: row.try_get::<Option<i64>, _>(14)?.map(time),
    })
}

macro_rules! tasks {
    ($rest:literal) => {
        concat!(
            "select id, project_id, kind, status, asked, rate, total, done, changed, errors, first_errors, cursor, correlation, created_at,
                    finished_at from tasks ",
            $rest
        )
    };
}

const TASK: &str = tasks!("where id = $1");
const OF_PROJECT: &str = tasks!("where project_id = $1 and id < $2 order by id desc limit $3");
const ALL_TASKS: &str = tasks!("where id < $1 order by id desc limit $2");
const RUNNING: &str = tasks!("where status = 'running' and id > x'' order by id limit $1");

pub(super) async fn task(pool: &SqlitePool, id: TaskId) -> Result<Option<Task>, StoreError> {
    let row = sqlx::query(TASK).bind(id.uuid()).fetch_optional(pool).await?;
    row.as_ref().map(task_row).transpose()
}

pub(super) async fn tasks(
    pool: &SqlitePool,
    project: Option<ProjectId>,
    before: Option<TaskId>,
    limit: u32,
) -> Result<Page<Task>, StoreError> {
    let before = before.map_or(uuid::Uuid::max(), |id| id.uuid());
    let limit = read::bounded(limit);
    let query = match project {
        Some(project) => sqlx::query(OF_PROJECT).bind(project.uuid()).bind(before).bind(limit + 1),
        None => sqlx::query(ALL_TASKS).bind(before).bind(limit + 1),
    };
    read::page(query.fetch_all(pool).await?, limit, task_row)
}

pub(super) async fn running(pool: &SqlitePool, limit: u32) -> Result<Vec<Task>, StoreError> {
    sqlx::query(RUNNING).bind(limit).fetch_all(pool).await?.iter().map(task_row).collect()
}

pub(super) async fn cancel(tx: &mut Tx, id: TaskId, now: Timestamp) -> Result<bool, StoreError> {
    Ok(sqlx::query(CANCEL).bind(id.uuid()).bind(now.as_millis()).execute(&mut tx.conn).await?.rows_affected() > 0)
}

const CANCEL: &str = "update tasks set status = 'cancelled', finished_at = $2 where id = $1 and status = 'running'";

/// A slice made ready outside the writer.
pub(super) struct Ready {
    pub(super) task: TaskId,
    pub(super) from: Option<Vec<u8>>,
    pub(super) to: Option<Vec<u8>>,
    pub(super) work: Work,
    pub(super) looked_at: u32,
    pub(super) errors: Vec<TaskError>,
    pub(super) now: Timestamp,
}

pub(super) enum Work {
    Retry(Vec<DeliveryId>),
    Cancel(Vec<DeliveryId>),
    /// The two go together one by one.
    Send(Vec<Accepting>, Vec<Sending>),
}

/// What is told of an intake when it is written.
pub(super) struct Sending {
    pub(super) batch: BatchId,
    pub(super) lead: LeadId,
    pub(super) lanes: Vec<CredentialId>,
}

impl Ready {
    pub(super) fn new(slice: Slice) -> Result<Self, StoreError> {
        let Slice { task, from, to, work, looked_at, errors, now } = slice;
        let work = match work {
            SliceWork::Retry(ids) => Work::Retry(ids),
            SliceWork::Cancel(ids) => Work::Cancel(ids),
            SliceWork::Send(intakes) => {
                let sendings = intakes.iter().map(Sending::of).collect();
                Work::Send(intakes.into_iter().map(Accepting::in_bulk).collect::<Result<_, _>>()?, sendings)
            }
        };
        Ok(Self { task, from, to, work, looked_at, errors, now })
    }
}

impl Sending {
    fn of(intake: &Intake) -> Self {
        let lanes = intake.deliveries.iter().map(|delivery| delivery.credential_id.bulk_lane()).collect();
        Self { batch: intake.batch, lead: intake.lead.id, lanes }
    }
}

/// See [`crate::store::Store::do_slice`].
pub(super) async fn slice(tx: &mut Tx, ready: &Ready) -> Result<Option<Sliced>, StoreError> {
    let Some(row) = sqlx::query(STANDING).bind(ready.task.uuid()).fetch_optional(&mut tx.conn).await? else { return Ok(None) };
    if row.try_get::<Option<Vec<u8>>, _>(0)? != ready.from {
        return Ok(None);
    }
    let began = time(row.try_get(2)?);
    let sliced = match &ready.work {
        Work::Retry(ids) => bulk::retry(tx, ids, began, ready.now)?,
        Work::Cancel(ids) => bulk::cancel(tx, ids, ready.now)?,
        Work::Send(intakes, sendings) => send(tx, intakes, sendings, began)?,
    };
    fault::pass(Point::SliceRows);
    let mut first: Vec<TaskError> = json(row.try_get(1)?)?;
    first.extend(ready.errors.iter().take(KEPT_ERRORS.saturating_sub(first.len())).cloned());
    let ended = ready.to.is_none();
    sqlx::query(STEP)
        .bind(ready.task.uuid())
        .bind(if ended { TaskStatus::Completed } else { TaskStatus::Running }.word())
        .bind(ready.to.clone().or_else(|| ready.from.clone()))
        .bind(ready.looked_at)
        .bind(sliced.changed)
        .bind(ready.errors.len() as i64)
        .bind(to_json(&first)?)
        .bind(ended.then(|| ready.now.as_millis()))
        .execute(&mut tx.conn)
        .await?;
    fault::pass(Point::SliceCursor);
    Ok(Some(sliced))
}

/// Leads that were sent again since the task began, by another one or by hand, are not sent once more, and those that are
/// gone do not come back.
fn send(tx: &mut Tx, intakes: &[Accepting], sendings: &[Sending], began: Timestamp) -> Result<Sliced, StoreError> {
    let mut sliced = Sliced::default();
    // All or nothing: what is refused for one (the backlog is full) stops the slice before anything of it is written.
    let jobs: usize = sendings.iter().map(|sending| sending.lanes.len()).sum();
    if jobs > 0 && tx.backlog + jobs as u64 > tx.max_backlog {
        return Err(StoreError::Overloaded { backlog: tx.backlog });
    }
    for (intake, sending) in intakes.iter().zip(sendings) {
        let newest = tx.db.first(NEWEST, params![sending.lead.uuid()], |row| Ok(row.get::<_, Uuid>(0)?))?;
        if newest.is_none_or(|batch| time_of(batch) > began) {
            continue;
        }
        for result in accept::run(tx, std::slice::from_ref(intake))? {
            if let Written::New(Accepted::New) = result? {
                sliced.changed += 1;
                sliced.batches.push(Changed::only(sending.batch, sending.lead));
                sliced.due.extend(&sending.lanes);
            }
        }
    }
    sliced.due.sort_unstable();
    sliced.due.dedup();
    Ok(sliced)
}

const NEWEST: &str = "select batch_id from leads where id = ?1";

const STANDING: &str = "select cursor, first_errors, created_at from tasks where id = $1 and status = 'running'";

const STEP: &str = "
update tasks set status = $2, cursor = $3, done = done + $4, changed = changed + $5, errors = errors + $6, first_errors = $7, finished_at = $8
 where id = $1";

/// The statements, for the check of their plans.
#[cfg(test)]
pub(super) const ALL: &[&str] = &[TASK, OF_PROJECT, ALL_TASKS, RUNNING, CANCEL, STANDING, NEWEST, STEP];
