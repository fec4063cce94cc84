//! Runs tasks: slice by slice, each at its own rate, one small transaction at a time so that leads go between.
//!
//! Nothing about a task is remembered here that its row does not say: after a restart, and also when two runners meet over
//! the same task, each row is passed once, because the cursor moves in the transaction that changes the rows.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::fault::{self, Point};
use crate::model::{
    BatchId, BatchOptions, CredentialId, DeliveryId, LeadId, LeadRecord, LeadStatus, Task, TaskError, TaskId, TaskKind, Timestamp,
};
use crate::policy::fanout::{Candidates, Named, Wanted, fan_out};
use crate::store::{Cursor, Intake, IntakeExtras, ListQuery, NewDelivery, Slice, SliceWork, StoreError, Watch};

/// Rows of one slice at most.
const SLICE: u32 = 50;
/// Slices that a second has at least, so that a rate is kept evenly: what a slice queues is sent as one burst, and a live
/// lead that comes with it shares the machine with all of it.
const SLICES_A_SECOND: u32 = 20;
/// Tasks that run side by side; later ones wait.
const SIDE_BY_SIDE: u32 = 50;
/// Pause after the store failed or had too much to do.
const PAUSE: Duration = Duration::from_secs(1);
/// Rows of one statement while rows are counted.
const COUNTED: u32 = 1_000;

/// What a task is to do, as its row keeps it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Asked {
    /// The rows that fit any of these, one query after the other; no row fits two.
    #[serde(default)]
    pub queries: Vec<ListQuery>,
    /// Instead of queries: these leads.
    #[serde(default)]
    pub leads: Vec<LeadId>,
    /// To which channels leads go; none: auto.
    #[serde(default)]
    pub channels: Vec<String>,
    /// The conditions in the client's words.
    #[serde(default)]
    pub filter: Value,
}

impl Asked {
    /// To which channels leads go.
    pub fn wanted(&self) -> Wanted {
        let named = |channel: &String| Named { channel: channel.clone(), credential: None, settings: None };
        if self.channels.is_empty() { Wanted::Auto } else { Wanted::Named(self.channels.iter().map(named).collect()) }
    }

    /// How many rows fit.
    pub async fn count(&self, app: &App, kind: TaskKind) -> Result<u64, StoreError> {
        let mut count = self.leads.len() as u64;
        for query in &self.queries {
            let mut query = ListQuery { limit: COUNTED, ..query.clone() };
            loop {
                let (rows, next) = match kind {
                    TaskKind::LeadsResend => app.store.lead_ids(&query).await.map(|found| (found.items.len(), found.next))?,
                    _ => app.store.delivery_ids(&query).await.map(|found| (found.items.len(), found.next))?,
                };
                count += rows as u64;
                query.before = next;
                if next.is_none() {
                    break;
                }
            }
        }
        Ok(count)
    }
}

/// Runs until `stop`.
pub async fn run(app: App, stop: CancellationToken) {
    let mut next: HashMap<TaskId, Timestamp> = HashMap::new();
    loop {
        let woken = app.tasks.notified();
        let again = turn(&app, &mut next).await;
        let wait = async {
            match again {
                Some(at) => app.clock.sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = woken => {}
            () = wait => {}
        }
    }
}

/// One slice of each task whose time has come; when to look again.
async fn turn(app: &App, next: &mut HashMap<TaskId, Timestamp>) -> Option<Timestamp> {
    let tasks = match app.store.running_tasks(SIDE_BY_SIDE).await {
        Ok(tasks) => tasks,
        Err(error) => {
            tracing::warn!(%error, "tasks could not be read; tried again in a second");
            return Some(app.now().plus(PAUSE));
        }
    };
    next.retain(|id, _| tasks.iter().any(|task| task.id == *id));
    for task in &tasks {
        let now = app.now();
        if next.get(&task.id).is_some_and(|at| *at > now) {
            continue;
        }
        let pause = match slice(app, task, now).await {
            Ok(rows) => Duration::from_millis(u64::from(rows) * 1_000 / u64::from(task.rate.max(1))),
            Err(StoreError::Overloaded { .. }) => PAUSE,
            Err(error) => {
                tracing::warn!(%error, task.id = %task.id, "a slice of a task failed; tried again in a second");
                PAUSE
            }
        };
        next.insert(task.id, now.plus(pause.max(Duration::from_millis(1))));
        tokio::task::yield_now().await;
    }
    tasks.iter().filter_map(|task| next.get(&task.id)).min().copied()
}

/// What the next slice of a task is about.
struct Ahead<T> {
    rows: Vec<T>,
    to: Option<Vec<u8>>,
}

/// Where a task stands: in which of its queries (or at which of its leads), and where in it.
fn standing(cursor: Option<&[u8]>) -> (usize, Option<Cursor>) {
    let Some((number, place)) = cursor.and_then(|bytes| bytes.split_first_chunk::<4>()) else { return (0, None) };
    (u32::from_be_bytes(*number) as usize, Cursor::from_bytes(place))
}

fn stand(number: usize, place: Option<Cursor>) -> Vec<u8> {
    let mut bytes = u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    bytes.extend(place.map(Cursor::to_bytes).unwrap_or_default());
    bytes
}

/// Does one slice; how many rows it had.
async fn slice(app: &App, task: &Task, now: Timestamp) -> Result<u32, StoreError> {
    let asked: Asked = serde_json::from_value(task.asked.clone())
        .map_err(|error| StoreError::Defect(format!("what {} is to do cannot be read: {error}", task.id)))?;
    let most = (task.rate / SLICES_A_SECOND).clamp(1, SLICE);
    let (work, to, rows, errors) = match task.kind {
        TaskKind::DeliveriesRetry | TaskKind::CredentialCancel => {
            let ahead = deliveries(app, task, &asked, most).await?;
            let rows = ahead.rows.len();
            if task.kind == TaskKind::DeliveriesRetry {
                let (rest, errors) = with_credential(app, ahead.rows).await?;
                (SliceWork::Retry(rest), ahead.to, rows, errors)
            } else {
                (SliceWork::Cancel(ahead.rows), ahead.to, rows, Vec::new())
            }
        }
        TaskKind::LeadsResend => {
            let ahead = leads(app, task, &asked, most).await?;
            let rows = ahead.rows.len();
            let (intakes, errors) = resend(app, task, &asked, ahead.rows, now).await?;
            (SliceWork::Send(intakes), ahead.to, rows, errors)
        }
    };
    let timer = first_timer(&work);
    let looked_at = u32::try_from(rows).unwrap_or(u32::MAX);
    let ends = to.is_none();
    let slice = Slice { task: task.id, from: task.cursor.clone(), to, work, looked_at, errors, now };
    if let Some(done) = app.store.do_slice(slice).await? {
        fault::pass(Point::SliceDone);
        let due: Vec<_> = done.due.iter().map(|lane| (*lane, now)).collect();
        if !due.is_empty() {
            app.lanes.hint(&due);
        }
        if let Some(due_at) = timer {
            app.lanes.timer(due_at);
        }
        done.batches.iter().for_each(|changed| app.batch_changed(changed));
        if ends {
            tracing::info!(task.id = %task.id, rows = task.progress.done + u64::from(looked_at), "task {} completed", task.id);
        }
    }
    Ok(looked_at)
}

/// When the first fallback of what is sent is due.
fn first_timer(work: &SliceWork) -> Option<Timestamp> {
    let SliceWork::Send(intakes) = work else { return None };
    intakes.iter().flat_map(|intake| &intake.extras.watches).map(|watch| watch.due_at).min()
}

async fn deliveries(app: &App, task: &Task, asked: &Asked, most: u32) -> Result<Ahead<DeliveryId>, StoreError> {
    let (number, place) = standing(task.cursor.as_deref());
    let Some(query) = asked.queries.get(number) else { return Ok(Ahead { rows: Vec::new(), to: None }) };
    let found = app.store.delivery_ids(&ListQuery { before: place, limit: most, ..query.clone() }).await?;
    Ok(Ahead { rows: found.items, to: after(asked, number, found.next) })
}

/// Those that can be sent again, and those whose credential is gone: their failure stays what it was.
async fn with_credential(app: &App, rows: Vec<DeliveryId>) -> Result<(Vec<DeliveryId>, Vec<TaskError>), StoreError> {
    let mut known: HashMap<CredentialId, bool> = HashMap::new();
    let (mut rest, mut errors) = (Vec::with_capacity(rows.len()), Vec::new());
    for id in rows {
        let Some(delivery) = app.store.delivery(id).await? else { continue };
        let there = match known.entry(delivery.credential_id) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(place) => *place.insert(app.store.credential(delivery.credential_id).await?.is_some()),
        };
        if there {
            rest.push(id);
        } else {
            let detail = "its credential was deleted, or given for that send alone".to_owned();
            errors.push(TaskError { id: id.to_string(), code: "credential_gone".to_owned(), detail });
        }
    }
    Ok((rest, errors))
}

async fn leads(app: &App, task: &Task, asked: &Asked, most: u32) -> Result<Ahead<LeadId>, StoreError> {
    let (number, place) = standing(task.cursor.as_deref());
    if !asked.leads.is_empty() {
        let rows: Vec<_> = asked.leads.iter().skip(number).take(most as usize).copied().collect();
        let end = number + rows.len();
        return Ok(Ahead { rows, to: (end < asked.leads.len()).then(|| stand(end, None)) });
    }
    let Some(query) = asked.queries.get(number) else { return Ok(Ahead { rows: Vec::new(), to: None }) };
    let found = app.store.lead_ids(&ListQuery { before: place, limit: most, ..query.clone() }).await?;
    Ok(Ahead { rows: found.items, to: after(asked, number, found.next) })
}

/// Where a task stands after a page: in the same query, or at the beginning of the next.
fn after(asked: &Asked, number: usize, next: Option<Cursor>) -> Option<Vec<u8>> {
    match next {
        Some(_) => Some(stand(number, next)),
        None => (number + 1 < asked.queries.len()).then(|| stand(number + 1, None)),
    }
}

/// New batches for stored leads, and the leads for which there can be none.
async fn resend(
    app: &App,
    task: &Task,
    asked: &Asked,
    leads: Vec<LeadId>,
    now: Timestamp,
) -> Result<(Vec<Intake>, Vec<TaskError>), StoreError> {
    let wanted = asked.wanted();
    let (mut intakes, mut errors) = (Vec::new(), Vec::new());
    for id in leads {
        // Erased meanwhile: there is nothing to send, and nobody to tell.
        let Some(record) = app.store.lead(id).await? else { continue };
        match again(app, &wanted, record, &task.correlation, now).await? {
            Ok(intake) => intakes.push(intake),
            Err(error) => errors.push(error),
        }
    }
    Ok((intakes, errors))
}

/// A new batch for a stored lead, or why there is none.
pub async fn again(
    app: &App,
    wanted: &Wanted,
    record: LeadRecord,
    correlation: &str,
    now: Timestamp,
) -> Result<Result<Intake, TaskError>, StoreError> {
    let lead = record.lead;
    let credentials = app.credentials(lead.project).await?;
    let sending = app.project(lead.project).await?.map(|project| project.sending.clone()).unwrap_or_default();
    let refused = |code: &str, detail: &str| Ok(Err(TaskError { id: lead.id.to_string(), code: code.into(), detail: detail.into() }));
    let installed = |channel: &str| app.registry.installed(channel);
    let entity = lead.entity.as_deref();
    let from = Candidates { entity, credentials: &credentials, inline: &[], barred: &[], rule: sending.entity_credentials };
    let plan = match fan_out(wanted, from, installed, "/integration_types") {
        Ok(plan) => plan,
        Err(errors) => match errors.first() {
            Some(first) => return refused(first.code, &first.detail),
            None => return refused("no_credentials", "no credential of the project takes it"),
        },
    };
    if plan.targets.is_empty() {
        return refused("no_credentials", "no enabled credential of the project takes it");
    }
    let delivery = |credential: &Arc<crate::model::Credential>| NewDelivery {
        id: DeliveryId::new(now),
        credential_id: credential.id,
        channel: credential.channel.clone(),
        due_at: now,
        settings: None,
    };
    let deliveries: Vec<_> = plan.targets.iter().map(|target| delivery(&target.credential)).collect();
    let watches = Watch::all(&sending.fallbacks, &deliveries);
    Ok(Ok(Intake {
        lead,
        status: LeadStatus::Accepted,
        dedup: None,
        batch: BatchId::new(now),
        options: BatchOptions { notify: sending.endings(), ..BatchOptions::default() },
        deliveries,
        correlation: correlation.to_owned(),
        idempotency: None,
        extras: IntakeExtras { watches, again: true, ..IntakeExtras::default() },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_says_where_a_task_stands() {
        let place = Cursor { at: uuid::Uuid::max(), within: Some(uuid::Uuid::nil()) };
        for (number, place) in [(0, None), (3, Some(place)), (70_000, Some(Cursor::below(uuid::Uuid::max())))] {
            assert_eq!(standing(Some(&stand(number, place))), (number, place));
        }
        assert_eq!(standing(None), (0, None));
    }

    #[test]
    fn the_end_of_one_query_is_the_beginning_of_the_next() {
        let asked = Asked { queries: vec![ListQuery::default(), ListQuery::default()], ..Asked::default() };
        assert_eq!(after(&asked, 0, None), Some(stand(1, None)));
        assert_eq!(after(&asked, 1, None), None);
        let place = Some(Cursor::below(uuid::Uuid::max()));
        assert_eq!(after(&asked, 1, place), Some(stand(1, place)));
    }
}
