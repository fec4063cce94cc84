//! Tasks, and their slices: what a slice does to rows is written with the step of the task's cursor.

use std::collections::HashMap;

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::accept::{self, Accepting, Claims};
use super::admin::Keep;
use super::backlog::Backlog;
use super::error::Fail;
use super::pool::Conn;
use super::read::{self, json, number, plain, time, time_column};
use super::walk::time_of;
use super::{answers, bulk, to_json};
use crate::model::{
    BatchId, CredentialId, DeliveryId, LeadId, ProjectId, Task, TaskError, TaskId, TaskKind, TaskProgress, TaskStatus, Timestamp,
};
use crate::store::sqlite::words::Word;
use crate::store::{Accepted, Changed, Intake, KEPT_ERRORS, Page, Slice, SliceWork, Sliced, StoreError, Written};

pub(super) async fn create(tx: &mut Conn, task: &Task, keep: &Keep) -> Result<Written<()>, Fail> {
    if let Some(before) = answers::before(tx, keep.as_ref(), task.created_at).await? {
        return Ok(before);
    }
    let query = sqlx::query(INSERT)
        .bind(task.id.uuid())
        .bind(task.project.map(|id| id.uuid()))
        .bind(task.kind.word())
        .bind(task.status.word())
        .bind(to_json(&task.asked)?)
        .bind(i64::from(task.rate))
        .bind(i64::try_from(task.progress.total).unwrap_or(i64::MAX))
        .bind(task.cursor.clone())
        .bind(plain(&task.correlation))
        .bind(task.created_at.as_millis())
        .bind(task.finished_at.map(Timestamp::as_millis));
    tx.run(query).await?;
    answers::after(tx, keep.as_ref(), task.created_at).await?;
    Ok(Written::New(()))
}

const INSERT: &str = "
insert into tasks (id, project_id, kind, status, asked, rate, total, cursor, correlation, created_at, finished_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";

fn task_row(row: &PgRow) -> Result<Task, Fail> {
    let count = |column: usize| Ok::<u64, Fail>(row.try_get::<i64, _>(column)?.max(0) as u64);
    Ok(Task {
        id: TaskId::from_uuid(row.try_get(0)?),
        project: row.try_get::<Option<Uuid>, _>(1)?.map(ProjectId::from_uuid),
        kind: TaskKind::read(row.try_get(2)?)?,
        status: TaskStatus::read(row.try_get(3)?)?,
        asked: json(row.try_get(4)?)?,
        rate: number(row, 5)?,
        progress: TaskProgress {
            total: count(6)?,
            done: count(7)?,
            changed: count(8)?,
            errors: count(9)?,
            first_errors: json(row.try_get(10)?)?,
        },
        cursor: row.try_get(11)?,
        correlation: row.try_get(12)?,
        created_at: time(row.try_get(13)?),
        finished_at: time_column(row, 14)?,
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
const RUNNING: &str = tasks!("where status = 'running' order by id limit $1");

pub(super) async fn task(conn: &mut Conn, id: TaskId) -> Result<Option<Task>, Fail> {
    conn.first(sqlx::query(TASK).bind(id.uuid())).await?.as_ref().map(task_row).transpose()
}

pub(super) async fn tasks(conn: &mut Conn, project: Option<ProjectId>, before: Option<TaskId>, limit: u32) -> Result<Page<Task>, Fail> {
    let before = before.map_or(Uuid::max(), |id| id.uuid());
    let limit = read::bounded(limit);
    let query = match project {
        Some(project) => sqlx::query(OF_PROJECT).bind(project.uuid()).bind(before).bind(i64::from(limit) + 1),
        None => sqlx::query(ALL_TASKS).bind(before).bind(i64::from(limit) + 1),
    };
    read::page(conn.all(query).await?, limit, task_row)
}

pub(super) async fn running(conn: &mut Conn, limit: u32) -> Result<Vec<Task>, Fail> {
    conn.all(sqlx::query(RUNNING).bind(i64::from(limit))).await?.iter().map(task_row).collect()
}

pub(super) async fn cancel(tx: &mut Conn, id: TaskId, now: Timestamp) -> Result<bool, Fail> {
    Ok(tx.run(sqlx::query(CANCEL).bind(id.uuid()).bind(now.as_millis())).await? > 0)
}

const CANCEL: &str = "update tasks set status = 'cancelled', finished_at = $2 where id = $1 and status = 'running'";

/// A slice made ready outside the transaction.
pub(super) struct Ready {
    task: TaskId,
    from: Option<Vec<u8>>,
    to: Option<Vec<u8>>,
    work: Work,
    looked_at: u32,
    errors: Vec<TaskError>,
    now: Timestamp,
}

enum Work {
    Retry(Vec<DeliveryId>),
    Cancel(Vec<DeliveryId>),
    /// The two go together one by one.
    Send(Vec<Accepting>, Vec<Sending>),
}

/// What is told of an intake when it is written.
struct Sending {
    batch: BatchId,
    lead: LeadId,
    lanes: Vec<CredentialId>,
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
pub(super) async fn slice(tx: &mut Conn, backlog: &Backlog, ready: &Ready) -> Result<Option<Sliced>, Fail> {
    let Some(row) = tx.first(sqlx::query(STANDING).bind(ready.task.uuid())).await? else { return Ok(None) };
    if row.try_get::<Option<Vec<u8>>, _>(0)? != ready.from {
        return Ok(None);
    }
    let began = time(row.try_get(2)?);
    let sliced = match &ready.work {
        // Retried work waits like any other: past the limit, the task waits as well.
        Work::Retry(ids) => bulk::retry(tx, ids, began, ready.now, |count| fits(backlog, count)).await?,
        Work::Cancel(ids) => bulk::cancel(tx, ids, ready.now).await?,
        Work::Send(intakes, sendings) => send(tx, backlog, intakes, sendings, began).await?,
    };
    let mut first: Vec<TaskError> = json(row.try_get(1)?)?;
    first.extend(ready.errors.iter().take(KEPT_ERRORS.saturating_sub(first.len())).cloned());
    let ended = ready.to.is_none();
    let query = sqlx::query(STEP)
        .bind(ready.task.uuid())
        .bind(if ended { TaskStatus::Completed } else { TaskStatus::Running }.word())
        .bind(ready.to.clone().or_else(|| ready.from.clone()))
        .bind(i64::from(ready.looked_at))
        .bind(i64::from(sliced.changed))
        .bind(i64::try_from(ready.errors.len()).unwrap_or(i64::MAX))
        .bind(to_json(&first)?)
        .bind(ended.then(|| ready.now.as_millis()));
    tx.run(query).await?;
    Ok(Some(sliced))
}

fn fits(backlog: &Backlog, jobs: u64) -> Result<(), Fail> {
    match backlog.reserve(jobs) {
        Some(_) => Ok(()),
        None => Err(StoreError::Overloaded { backlog: backlog.now() }.into()),
    }
}

/// Leads that were sent again since the task began, by another one or by hand, are not sent once more, and those that are
/// gone do not come back.
async fn send(tx: &mut Conn, backlog: &Backlog, intakes: &[Accepting], sendings: &[Sending], began: Timestamp) -> Result<Sliced, Fail> {
    let mut sliced = Sliced::default();
    // All or nothing: what is refused for one (the backlog is full) stops the slice before anything of it is written.
    fits(backlog, sendings.iter().map(|sending| sending.lanes.len() as u64).sum())?;
    let mut newest: HashMap<LeadId, BatchId> = HashMap::new();
    for row in tx.all(sqlx::query(NEWEST).bind(sendings.iter().map(|sending| sending.lead.uuid()).collect::<Vec<_>>())).await? {
        newest.insert(LeadId::from_uuid(row.try_get(0)?), BatchId::from_uuid(row.try_get(1)?));
    }
    let mut all = intakes.iter().zip(sendings).peekable();
    while all.peek().is_some() {
        let mut claims = Claims::default();
        let mut group = Vec::new();
        while let Some(next) = all.next_if(|(intake, _)| claims.admit(intake)) {
            // A lead may come twice in one slice, too.
            if let Some(batch) = newest.get_mut(&next.1.lead).filter(|batch| time_of(batch.uuid()) <= began) {
                *batch = next.1.batch;
                group.push(next);
            }
        }
        let intakes: Vec<&Accepting> = group.iter().map(|(intake, _)| *intake).collect();
        let (results, _rooms) = accept::run(tx, backlog, &intakes).await?;
        for (result, (_, sending)) in results.into_iter().zip(group) {
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

/// Nobody sends them again before this transaction ends.
const NEWEST: &str = "select id, batch_id from leads where id = any($1) order by id for no key update";

const STANDING: &str = "select cursor, first_errors, created_at from tasks where id = $1 and status = 'running' for update";

const STEP: &str = "
update tasks set status = $2, cursor = $3, done = done + $4, changed = changed + $5, errors = errors + $6, first_errors = $7, finished_at = $8
 where id = $1";
