//! Lanes: one queue per credential. The dispatcher leases due jobs, a worker calls the plugin and records the outcome.
//! Never decides what follows an outcome: that is `policy::retry`. Start at `dispatcher::run`.

mod convert;
mod dispatcher;
mod effects;
mod preview;
mod queue;
mod ready;
mod worker;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

pub use preview::{Preview, Previewed};
pub(crate) use ready::check_settings;

use crate::clock::Clock;
use crate::egress::Egress;
use crate::fault::{self, Point};
use crate::mail::Mailer;
use crate::metrics::SendingMetrics;
use crate::model::{BatchId, BatchStatus, CredentialId, CredentialState, StateReason, Timestamp};
use crate::plugin::call;
use crate::plugin::registry::Registry;
use crate::policy::outcome::CallEnd;
use crate::policy::retry;
use crate::secrets::Vault;
use crate::store::{Changed, Store, StoreError};

/// What the lanes work with.
pub struct Deps {
    #[allow(missing_docs)]
    pub store: Arc<dyn Store>,
    #[allow(missing_docs)]
    pub registry: Arc<Registry>,
    #[allow(missing_docs)]
    pub egress: Arc<Egress>,
    #[allow(missing_docs)]
    pub mailer: Arc<Mailer>,
    #[allow(missing_docs)]
    pub vault: Arc<Vault>,
    #[allow(missing_docs)]
    pub clock: Arc<dyn Clock>,
    #[allow(missing_docs)]
    pub metrics: SendingMetrics,
    #[allow(missing_docs)]
    pub config: LaneConfig,
}

/// Limits of the lanes.
#[derive(Debug, Clone)]
pub struct LaneConfig {
    /// Plugin calls at once in this process.
    pub max_calls: u32,
    /// What a lease lasts beyond the longest a call can take.
    pub lease_margin: Duration,
    /// How often all lanes are looked through, beside the hints.
    pub sweep: Duration,
    /// The name of this node in attempts.
    pub node: String,
}

impl Default for LaneConfig {
    fn default() -> Self {
        Self { max_calls: 256, lease_margin: Duration::from_secs(30), sweep: Duration::from_secs(10), node: "node".into() }
    }
}

/// What the rest of the host may ask of the lanes. Cheap to clone.
#[derive(Clone)]
pub struct Lanes {
    shared: Arc<Shared>,
}

struct Shared {
    deps: Deps,
    /// Wakes the dispatcher.
    wake: Notify,
    inbox: Mutex<Vec<Message>>,
    /// Passing states, for the API.
    states: Mutex<HashMap<CredentialId, LaneState>>,
    waiting: Mutex<HashMap<BatchId, Waiters>>,
    /// Nothing runs and nothing is due.
    idle: watch::Sender<bool>,
}

/// Who waits for one batch.
struct Waiters {
    ended: watch::Sender<Option<BatchStatus>>,
}

/// What the dispatcher hears.
enum Message {
    /// A job is due then.
    Due(CredentialId, Timestamp),
    /// Read the credential again.
    Changed(CredentialId),
    /// The same, and forget its pause: an admin mended it.
    Mended(CredentialId),
    /// A call was told to stop, and its jobs are about to be queued again.
    Stopped(worker::Learned),
    /// A call ended.
    Ended(worker::CallEnded),
    /// A timer of the store is due then.
    Timer(Timestamp),
}

/// A lane as `GET /api/credentials/{id}` shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct LaneState {
    #[allow(missing_docs)]
    pub state: CredentialState,
    #[allow(missing_docs)]
    pub reason: Option<StateReason>,
    #[allow(missing_docs)]
    pub since: Timestamp,
    /// When it ends by itself; `None`: when something happens.
    pub until: Option<Timestamp>,
}

/// What a credential's connection test said.
#[derive(Debug, Clone, PartialEq)]
pub enum CheckAnswer {
    /// It works; names and values for the admin.
    Ok(Vec<(String, String)>),
    /// It does not.
    Failed {
        /// Machine-readable, such as `credential_invalid`.
        code: String,
        /// For the admin.
        message: String,
    },
}

impl Lanes {
    /// Lanes that do nothing until [`Lanes::run`] is polled.
    pub fn new(deps: Deps) -> Self {
        let shared = Shared {
            deps,
            wake: Notify::new(),
            inbox: Mutex::default(),
            states: Mutex::default(),
            waiting: Mutex::default(),
            idle: watch::Sender::new(false),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Works until `stop`; then takes no new leases, and returns when the calls in flight have ended.
    pub async fn run(self, stop: CancellationToken) {
        dispatcher::run(self.shared, stop).await;
    }

    /// Jobs were queued in these lanes, the earliest due then. Never blocks.
    pub fn hint(&self, lanes: &[(CredentialId, Timestamp)]) {
        self.shared.send(lanes.iter().map(|(lane, due_at)| Message::Due(*lane, *due_at)));
    }

    /// A timer was stored that is due then.
    pub fn timer(&self, due_at: Timestamp) {
        self.shared.send([Message::Timer(due_at)]);
    }

    /// The clock was moved by hand: look again. For tests.
    pub fn poke(&self) {
        self.shared.send([]);
    }

    /// The credential was written, enabled, paused or deleted: read it again before the next call.
    pub fn credential_changed(&self, id: CredentialId) {
        self.shared.send([Message::Changed(id)]);
    }

    /// An admin mended the credential (its settings, its secrets, a resume): read it again, and try at once.
    pub fn credential_mended(&self, id: CredentialId) {
        self.shared.send([Message::Mended(id)]);
    }

    /// The passing state of a lane (throttled, breaker open, plugin missing), if it stands over the stored one.
    pub fn state(&self, id: CredentialId) -> Option<LaneState> {
        // A lane with nothing left to send does not look at the clock, so its state is looked at when it is asked for.
        let now = self.shared.deps.clock.now();
        lock(&self.shared.states).get(&id).filter(|state| state.until.is_none_or(|until| until > now)).cloned()
    }

    /// Something other than a delivery ended this batch: tells whoever waits for it.
    pub fn batch_ended(&self, batch: BatchId, status: BatchStatus) {
        self.shared.announce(batch, status);
    }

    /// A future that resolves when the batch ends. Take it before the batch is accepted.
    pub fn wait_for(&self, batch: BatchId) -> impl Future<Output = BatchStatus> + Send + use<> {
        let mut ended = {
            let mut waiting = lock(&self.shared.waiting);
            waiting.entry(batch).or_insert_with(|| Waiters { ended: watch::Sender::new(None) }).ended.subscribe()
        };
        let forget = Forget { shared: self.shared.clone(), batch };
        async move {
            let _forget = forget;
            match ended.wait_for(Option::is_some).await.map(|status| *status) {
                Ok(Some(status)) => status,
                // The sender lives as long as someone waits, so this is not reached.
                _ => std::future::pending().await,
            }
        }
    }

    /// Resolves when no call runs and no job is due now. For tests and for a graceful stop.
    pub async fn idle(&self) {
        let mut idle = self.shared.idle.subscribe();
        // What was sent before this call must have been taken in: sending sets the mark to false at once.
        let _ = idle.wait_for(|idle| *idle).await;
    }

    /// Shows what a stored credential would send for a lead. `None`: the credential is gone.
    pub async fn preview(&self, id: CredentialId, preview: Preview) -> Result<Option<Previewed>, StoreError> {
        preview::run(&self.shared.deps, self.shared.deps.registry.engine(), id, preview).await
    }

    /// Runs the plugin's `check` for a stored credential, outside its queue.
    pub async fn check(&self, id: CredentialId) -> CheckAnswer {
        let shared = &self.shared;
        let ready = match ready::prepare(&shared.deps, id).await {
            Ok(ready::Prepared::Ready(ready)) => ready,
            Ok(ready::Prepared::Parked { state, .. }) => {
                return CheckAnswer::Failed { code: state.code, message: state.message };
            }
            Ok(ready::Prepared::Gone) => {
                return CheckAnswer::Failed { code: "not_found".into(), message: "this credential was deleted".into() };
            }
            Err(error) => return CheckAnswer::Failed { code: "unavailable".into(), message: error.to_string() },
        };
        let effects = effects::CheckEffects::new(shared.deps.store.clone(), shared.deps.clock.clone(), id);
        let env = ready.env(&shared.deps, Arc::new(effects), format!("check:{id}"), None, false);
        let env = match env {
            Ok(env) => env,
            Err(why) => return CheckAnswer::Failed { code: why.code, message: why.message },
        };
        match call::check(shared.deps.registry.engine(), &ready.plugin.inspected, env).await {
            Ok(info) => CheckAnswer::Ok(info),
            Err(CallEnd::Stopped(stop)) => {
                let (why, _) = retry::stopped(&stop);
                CheckAnswer::Failed { code: why.code, message: why.message }
            }
            Err(CallEnd::Failed(why)) => CheckAnswer::Failed { code: why.code, message: why.message },
            Err(CallEnd::Returned) => CheckAnswer::Ok(Vec::new()),
        }
    }
}

impl Shared {
    fn send(&self, messages: impl IntoIterator<Item = Message>) {
        let mut inbox = lock(&self.inbox);
        inbox.extend(messages);
        self.idle.send_if_modified(|idle| std::mem::replace(idle, false));
        drop(inbox);
        self.wake.notify_one();
    }

    /// What follows a write: whoever waits hears of the batch's end, lanes with new work are woken, and those whose
    /// credential is gone forget it.
    fn followed(&self, changed: &Changed) {
        if let Some(status) = changed.ended {
            self.announce(changed.batch, status);
        }
        fault::pass(Point::LaneAnnounced);
        if changed.queued.is_empty() && changed.erased.is_empty() && !changed.timer {
            return;
        }
        let now = self.deps.clock.now();
        let queued = changed.queued.iter().map(|lane| Message::Due(*lane, now));
        let erased = changed.erased.iter().map(|lane| Message::Changed(*lane));
        self.send(queued.chain(erased).chain(changed.timer.then_some(Message::Timer(now))));
    }

    /// Tells whoever waits that batches ended.
    fn announce(&self, batch: BatchId, status: BatchStatus) {
        self.deps.metrics.batch(status);
        if let Some(waiters) = lock(&self.waiting).get(&batch) {
            waiters.ended.send_replace(Some(status));
        }
    }
}

/// Removes a waiter that is dropped.
struct Forget {
    shared: Arc<Shared>,
    batch: BatchId,
}

impl Drop for Forget {
    fn drop(&mut self) {
        let mut waiting = lock(&self.shared.waiting);
        // One receiver is the future that is being dropped with this.
        if waiting.get(&self.batch).is_some_and(|waiters| waiters.ended.receiver_count() <= 1) {
            waiting.remove(&self.batch);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
