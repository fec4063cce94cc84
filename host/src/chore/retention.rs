//! The daily clean-up: removes what is too old, project by project, each at its own two o'clock (or whatever the schedule
//! says). Slice by slice, so that leads go between; after a stop midway it begins again and finds the rest.
//!
//! What was missed while the host was down is made up for at its start, once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::model::{Cleanup, DeliveryId, Project, ProjectId, Removed, Timestamp};
use crate::policy::cleanup;
use crate::store::{Prune, StoreError};

/// How often the schedules are looked at.
const EVERY: Duration = Duration::from_secs(60);
/// Leads that one transaction removes at most.
const LEADS: u32 = 25;
/// Deliveries whose attempts one transaction looks at.
const DELIVERIES: u32 = 500;
/// Rows of other kinds that one transaction removes.
const ROWS: u32 = 500;
/// Longest pause between two slices.
const MAX_PAUSE: Duration = Duration::from_millis(200);
/// Projects that are read at once.
const PROJECTS: u32 = 200;

/// What clean-ups removed since the host started, for whoever watches it.
#[derive(Debug, Default)]
pub struct Counts {
    inner: Mutex<Counted>,
}

/// See [`Counts`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// Rows of each kind.
    pub removed: Removed,
    /// Clean-ups that were made, one for each project and time.
    pub runs: u64,
    /// Clean-ups that broke off; each is made again within a minute.
    pub failures: u64,
    /// When the last one ended.
    pub last_at: Option<Timestamp>,
    /// One is under way.
    pub running: bool,
}

impl Counts {
    /// As they stand.
    pub fn now(&self) -> Counted {
        *self.lock()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counted> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs until `stop`.
pub async fn run(app: App, stop: CancellationToken) {
    // The times that were taken, by project; of what belongs to none under `None`.
    let mut done: HashMap<Option<ProjectId>, Timestamp> = HashMap::new();
    while !stop.is_cancelled() {
        if let Err(error) = turn(&app, &mut done, &stop).await {
            app.retention.lock().failures += 1;
            app.metrics.cleanups.failures.inc();
            tracing::warn!(%error, "a clean-up broke off; it goes on within a minute");
        }
        app.retention.lock().running = false;
        let next = app.now().plus(EVERY);
        tokio::select! {
            () = stop.cancelled() => {}
            () = app.clock.sleep_until(next) => {}
        }
    }
}

/// Makes the clean-ups whose time has come.
async fn turn(app: &App, done: &mut HashMap<Option<ProjectId>, Timestamp>, stop: &CancellationToken) -> Result<(), StoreError> {
    of_host(app, done, stop).await?;
    let mut after = None;
    loop {
        let page = app.store.projects(after, PROJECTS).await?;
        for project in &page.items {
            if stop.is_cancelled() {
                return Ok(());
            }
            of_project(app, project, done, stop).await?;
        }
        after = page.items.last().map(|project| project.id);
        if !page.has_more {
            return Ok(());
        }
    }
}

/// The time that was taken last.
async fn taken(
    app: &App,
    done: &mut HashMap<Option<ProjectId>, Timestamp>,
    project: Option<ProjectId>,
    first: Timestamp,
) -> Result<Timestamp, StoreError> {
    if let Some(at) = done.get(&project) {
        return Ok(*at);
    }
    let at = match app.store.cleanup(project).await? {
        Some(cleanup) => cleanup.due_at,
        None => first,
    };
    done.insert(project, at);
    Ok(at)
}

/// What belongs to no project goes by UTC.
async fn of_host(app: &App, done: &mut HashMap<Option<ProjectId>, Timestamp>, stop: &CancellationToken) -> Result<(), StoreError> {
    let now = app.now();
    if !done.contains_key(&None) && app.store.cleanup(None).await?.is_none() {
        // The first start: so that what the next one finds missed is known.
        app.store.note_cleanup(&Cleanup { project: None, due_at: now, ended_at: now, removed: Removed::default(), place: None }).await?;
    }
    let last = taken(app, done, None, now).await?;
    let Some(due_at) = app.config.retention.schedule.due(&TimeZone::UTC, now, last) else { return Ok(()) };
    app.retention.lock().running = true;
    let ages = app.config.retention.ages;
    let tasks = by_age(app, stop, Kind::Tasks(None), ages.attempts_days).await?;
    let events = by_age(app, stop, Kind::Events, ages.events_days).await?;
    let audit = by_age(app, stop, Kind::Audit, ages.audit_days).await?;
    let removed = Removed { tasks, events, audit, ..Removed::default() };
    count(app, &removed);
    ended(app, done, stop, Cleanup { project: None, due_at, ended_at: app.now(), removed, place: None }).await
}

async fn of_project(
    app: &App,
    project: &Project,
    done: &mut HashMap<Option<ProjectId>, Timestamp>,
    stop: &CancellationToken,
) -> Result<(), StoreError> {
    let now = app.now();
    let zone = cleanup::time_zone(&project.time_zone).unwrap_or(TimeZone::UTC);
    let last = taken(app, done, Some(project.id), project.created_at).await?;
    let Some(due_at) = app.config.retention.schedule.due(&zone, now, last) else { return Ok(()) };
    app.retention.lock().running = true;
    let ages = app.config.retention.ages.of(&project.retention);
    let mut removed = Removed::default();
    if let Some(before) = cleanup::before(now, ages.leads_days) {
        removed.add(&leads(app, project.id, before, stop).await?);
    }
    let mut place = app.store.cleanup(Some(project.id)).await?.and_then(|last| last.place);
    if let Some(before) = cleanup::before(now, ages.attempts_days) {
        let attempts;
        (attempts, place) = self::attempts(app, project.id, before, place, stop).await?;
        removed.attempts += attempts;
    }
    let tasks = by_age(app, stop, Kind::Tasks(Some(project.id)), ages.attempts_days).await?;
    count(app, &Removed { tasks, ..Removed::default() });
    removed.tasks = tasks;
    ended(app, done, stop, Cleanup { project: Some(project.id), due_at, ended_at: app.now(), removed, place }).await
}

fn count(app: &App, removed: &Removed) {
    app.retention.lock().removed.add(removed);
    app.metrics.cleanups.removed(removed);
}

/// Notes a clean-up, unless the host was stopped in the middle of it: then it is made again.
async fn ended(
    app: &App,
    done: &mut HashMap<Option<ProjectId>, Timestamp>,
    stop: &CancellationToken,
    cleanup: Cleanup,
) -> Result<(), StoreError> {
    if stop.is_cancelled() {
        return Ok(());
    }
    app.store.note_cleanup(&cleanup).await?;
    done.insert(cleanup.project, cleanup.due_at);
    {
        let mut counted = app.retention.lock();
        counted.runs += 1;
        counted.last_at = Some(cleanup.ended_at);
        counted.running = false;
    }
    app.metrics.cleanups.runs.inc();
    let Removed { leads, deliveries, attempts, tasks, events, audit, .. } = cleanup.removed;
    let whose = cleanup.project.map_or_else(|| "the host".to_owned(), |project| project.to_string());
    tracing::info!(leads, deliveries, attempts, tasks, events, audit, due_at = %cleanup.due_at, "clean-up of {whose} ended");
    Ok(())
}

async fn leads(app: &App, project: ProjectId, before: Timestamp, stop: &CancellationToken) -> Result<Removed, StoreError> {
    let (mut removed, mut after) = (Removed::default(), None);
    while !stop.is_cancelled() {
        let began = Instant::now();
        let slice = app.store.prune_leads(Prune { project, before, after, limit: LEADS }).await?;
        removed.add(&slice.removed);
        count(app, &slice.removed);
        if slice.next.is_none() {
            break;
        }
        after = slice.next;
        pause(began).await;
    }
    Ok(removed)
}

/// How many were removed, and where the next clean-up begins.
async fn attempts(
    app: &App,
    project: ProjectId,
    before: Timestamp,
    place: Option<DeliveryId>,
    stop: &CancellationToken,
) -> Result<(u64, Option<DeliveryId>), StoreError> {
    let (mut removed, mut after, mut reached, mut left) = (0, place, place, false);
    while !stop.is_cancelled() {
        let began = Instant::now();
        let slice = app.store.prune_attempts(Prune { project, before, after, limit: DELIVERIES }).await?;
        removed += slice.attempts;
        count(app, &Removed { attempts: slice.attempts, ..Removed::default() });
        // Up to the first delivery that has attempts left, none has to be looked at again.
        left |= slice.left.is_some();
        if !left {
            reached = slice.last.or(reached);
        }
        if slice.next.is_none() {
            break;
        }
        after = slice.next;
        pause(began).await;
    }
    Ok((removed, reached))
}

/// What is removed by its age alone.
#[derive(Clone, Copy)]
enum Kind {
    /// Tasks of a project, or those of no single one.
    Tasks(Option<ProjectId>),
    /// What those who follow live can go on from.
    Events,
    /// Lines of the audit log.
    Audit,
}

impl Kind {
    /// Removes up to [`ROWS`] that are older.
    async fn prune(self, app: &App, before: Timestamp) -> Result<u64, StoreError> {
        match self {
            Self::Tasks(project) => app.store.prune_tasks(project, before, ROWS).await,
            Self::Events => app.store.prune_events(before, ROWS).await,
            Self::Audit => app.store.prune_audit(before, ROWS).await,
        }
    }
}

/// Removes what is too old, slice by slice until one is not full.
async fn by_age(app: &App, stop: &CancellationToken, kind: Kind, days: u32) -> Result<u64, StoreError> {
    let Some(before) = cleanup::before(app.now(), days) else { return Ok(0) };
    let mut removed = 0;
    while !stop.is_cancelled() {
        let began = Instant::now();
        let slice = kind.prune(app, before).await?;
        removed += slice;
        if slice < u64::from(ROWS) {
            break;
        }
        pause(began).await;
    }
    Ok(removed)
}

/// As long as the slice took, so that at least half of the writer's time is for leads.
async fn pause(began: Instant) {
    tokio::time::sleep(began.elapsed().min(MAX_PAUSE)).await;
}
