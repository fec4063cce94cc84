//! One call of a plugin: a fresh instance, its limits, and the state its imports work on.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use wasmtime::component::{HasSelf, Linker};
use wasmtime::{ResourceLimiter, Store, Trap, UpdateDeadline};
use wasmtime_wasi::{I32Exit, ResourceTable, WasiCtx, WasiCtxView, WasiView};

use super::PluginError;
use super::bindings::{OutboundHost, wit, wit_outbound};
use super::engine::{Engine, MAX_COPY_BYTES, MAX_TABLE_ELEMENTS, TICK};
use super::inspect::Inspected;
use super::manifest::{Limits, Manifest, Uses};
use super::stdio::GuestOutput;
use crate::clock::Clock;
use crate::egress::{Egress, Grant, Rehearsed};
use crate::mail::{Account, Mailer};
use crate::model::Exchange;
use crate::policy::outcome::{CallEnd, Refusal, Stop, Verdict};
use crate::secrets::SecretSet;

/// Bytes of text that a guest's standard output may leave in the log.
const STDIO_BYTES: usize = 16 << 10;
/// Streams, timers and the like that a guest with WASI may hold at once.
const WASI_RESOURCES: usize = 1_000;
/// Most bytes of one of its requests for random bytes.
const WASI_RANDOM_BYTES: u64 = 64 << 10;
/// Time left to a guest when its last request has run out of time.
const MARGIN: Duration = Duration::from_millis(500);
/// Exchanges that one attempt keeps; of more, the first and the last.
const KEPT_EXCHANGES: usize = 20;

/// What a call may change outside its sandbox. The lane hands in the real one; it is the only way to the store.
#[async_trait]
pub trait Effects: Send + Sync {
    /// An item got its verdict, with the exchanges since the one before. Called at most once an item, at once.
    fn settle(&self, item: usize, verdict: Verdict, exchanges: Vec<Exchange>);
    /// Keeps a note for the item's next attempt. `false`: it could not be stored.
    async fn checkpoint(&self, item: usize, memo: String) -> bool;
    #[allow(missing_docs)]
    async fn kv_get(&self, key: &str) -> Result<Option<(Vec<u8>, u64)>, KvFailure>;
    /// `expected`: `None` writes whatever is there, `Some(None)` only when nothing is. `Ok(false)`: it did not match.
    async fn kv_set(&self, key: &str, value: Vec<u8>, ttl: Option<Duration>, expected: Option<Option<u64>>) -> Result<bool, KvFailure>;
    #[allow(missing_docs)]
    async fn kv_delete(&self, key: &str) -> Result<(), KvFailure>;
}

/// Nothing: for instances that are made only to see whether they can be.
pub struct NoEffects;

#[async_trait]
impl Effects for NoEffects {
    fn settle(&self, _item: usize, _verdict: Verdict, _exchanges: Vec<Exchange>) {}

    async fn checkpoint(&self, _item: usize, _memo: String) -> bool {
        false
    }

    async fn kv_get(&self, _key: &str) -> Result<Option<(Vec<u8>, u64)>, KvFailure> {
        Err(KvFailure::Unavailable)
    }

    async fn kv_set(&self, _key: &str, _value: Vec<u8>, _ttl: Option<Duration>, _expected: Option<Option<u64>>) -> Result<bool, KvFailure> {
        Err(KvFailure::Unavailable)
    }

    async fn kv_delete(&self, _key: &str) -> Result<(), KvFailure> {
        Err(KvFailure::Unavailable)
    }
}

/// Why a plugin's small state could not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum KvFailure {
    Quota,
    TooLarge,
    Unavailable,
}

/// What a call works with. Made by the lane for one credential and one call.
pub struct CallEnv {
    /// `channel@version`.
    pub plugin: String,
    /// Opaque ids and settings for the guest.
    pub context: wit::types::Context,
    /// The secrets, decrypted for this call and those of the same credential beside it.
    pub secrets: Arc<SecretSet>,
    /// Where the credential may send, and where its secrets go.
    pub grant: Arc<Grant>,
    #[allow(missing_docs)]
    pub egress: Arc<Egress>,
    #[allow(missing_docs)]
    pub mailer: Arc<Mailer>,
    /// The credential's mail account, when its channel uses mail.
    pub account: Option<Arc<Account>>,
    /// The manifest of the plugin that is called.
    pub manifest: Arc<Manifest>,
    #[allow(missing_docs)]
    pub clock: Arc<dyn Clock>,
    #[allow(missing_docs)]
    pub effects: Arc<dyn Effects>,
}

/// The state of one call, behind every import.
pub struct CallState {
    pub(super) env: Arc<CallEnv>,
    pub(super) deadline: Instant,
    /// Ids of the items given, in order.
    pub(super) items: Vec<String>,
    pub(super) settled: Vec<bool>,
    /// Exchanges not yet given to a verdict.
    pub(super) exchanges: Vec<Exchange>,
    /// The last ones that were, for items of a batch that share them.
    pub(super) shared_exchanges: Vec<Exchange>,
    pub(super) requests: u32,
    pub(super) kv_calls: u32,
    pub(super) log_lines: u32,
    /// A request that changes something went out.
    pub(super) wrote: bool,
    /// A request that changes something went out and no answer came.
    pub(super) ambiguous: bool,
    /// On a dry run: what would have been sent, in order.
    pub(super) rehearsed: Vec<Rehearsed>,
    /// Odd things the plugin did, in words for an admin.
    pub(super) notes: Vec<&'static str>,
    /// What the guest's panic hook said.
    pub(super) panic: Option<String>,
    memory_limit: usize,
    ticks_left: u64,
    /// The guest waited for the host over a tick or more; the next tick is not its doing.
    waited: bool,
    wasi: Option<(WasiCtx, ResourceTable, GuestOutput)>,
}

/// Why the sandbox ended a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("the plugin used more CPU time than its limit")]
    Cpu,
    #[error("the plugin used more memory than its limit")]
    Memory,
    #[error("the plugin wrote too many log lines")]
    Log,
}

/// The imports, linked once for all calls.
pub struct Linkers {
    plain: Linker<CallState>,
    wasi: Linker<CallState>,
}

impl Linkers {
    /// Links the contract, and for those that declare it WASI with nothing granted.
    pub fn new(engine: &Engine) -> Result<Self, PluginError> {
        let explain = |e: wasmtime::Error| PluginError::Engine(format!("{e:#}"));
        let mut plain = Linker::new(engine.wasmtime());
        OutboundHost::add_to_linker::<_, HasSelf<_>>(&mut plain, |state| state).map_err(explain)?;
        let mut wasi = plain.clone();
        wasmtime_wasi::p2::add_to_linker_async(&mut wasi).map_err(explain)?;
        Ok(Self { plain, wasi })
    }

    pub(super) fn for_manifest(&self, manifest: &Manifest) -> &Linker<CallState> {
        if manifest.uses.contains(&Uses::Wasi) { &self.wasi } else { &self.plain }
    }
}

impl WasiView for CallState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let (ctx, table, _) = self.wasi.get_or_insert_with(|| {
            let out = GuestOutput::new(STDIO_BYTES);
            let mut builder = WasiCtx::builder();
            builder.stdout(out.clone()).stderr(out.clone()).allow_tcp(false).allow_udp(false).max_random_size(WASI_RANDOM_BYTES);
            let mut table = ResourceTable::new();
            table.set_max_capacity(WASI_RESOURCES);
            (builder.build(), table, out)
        });
        WasiCtxView { ctx, table }
    }
}

impl ResourceLimiter for CallState {
    fn memory_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        if desired > self.memory_limit { Err(Fault::Memory.into()) } else { Ok(true) }
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        if desired > MAX_TABLE_ELEMENTS { Err(Fault::Memory.into()) } else { Ok(true) }
    }
}

impl CallState {
    fn new(env: Arc<CallEnv>, deadline: Instant, items: Vec<String>) -> Self {
        let limits = &env.manifest.limits;
        // What an import waits for ends a little earlier, so that the guest can still say what it makes of it.
        let margin = Duration::from_millis(u64::from(limits.timeout_ms) / 20).min(MARGIN);
        let deadline = deadline.checked_sub(margin).unwrap_or(deadline);
        let ticks = u64::from(limits.cpu_ms).div_ceil(TICK.as_millis() as u64);
        Self {
            memory_limit: (limits.memory_mb as usize) << 20,
            ticks_left: ticks,
            deadline,
            settled: vec![false; items.len()],
            items,
            exchanges: Vec::new(),
            shared_exchanges: Vec::new(),
            requests: 0,
            kv_calls: 0,
            waited: false,
            log_lines: 0,
            wrote: false,
            ambiguous: false,
            rehearsed: Vec::new(),
            notes: Vec::new(),
            panic: None,
            wasi: None,
            env,
        }
    }

    fn into_store(self, engine: &Engine) -> Store<Self> {
        let mut store = Store::new(engine.wasmtime(), self);
        store.limiter(|state| state);
        store.set_hostcall_fuel(MAX_COPY_BYTES);
        // Ticks pass only while guest code runs: waiting for an answer costs nothing of the CPU budget.
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|mut store| {
            let state = store.data_mut();
            let ticks = u64::from(!std::mem::take(&mut state.waited));
            match state.ticks_left.checked_sub(ticks) {
                None => Err(Fault::Cpu.into()),
                Some(left) => {
                    state.ticks_left = left;
                    // `yield_now` lets timers and sockets of this thread run; plain yielding starves them.
                    Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
                }
            }
        });
        store
    }

    /// Takes the time of an import that worked all the while from the guest's CPU budget: no tick passes during it.
    pub(super) fn charge(&mut self, since: Instant) -> wasmtime::Result<()> {
        let ticks = u64::try_from(since.elapsed().as_millis() / TICK.as_millis()).unwrap_or(u64::MAX);
        self.ticks_left = self.ticks_left.saturating_sub(ticks);
        if ticks > 0 && self.ticks_left == 0 { Err(Fault::Cpu.into()) } else { Ok(()) }
    }

    /// Notes that an import kept the guest waiting, which costs it nothing.
    pub(super) fn waited(&mut self, since: Instant) {
        self.waited |= since.elapsed() >= TICK;
    }

    /// The text with `***` in place of every secret of the credential.
    pub(super) fn mask(&self, text: &str) -> String {
        self.env.grant.masker().mask_text(text).0.into_owned()
    }

    /// Whether a secret of the credential is in there.
    pub(super) fn holds_secret(&self, bytes: &[u8]) -> bool {
        self.env.grant.masker().mask_bytes(bytes).1 > 0
    }

    /// Adds a note once.
    pub(super) fn note(&mut self, text: &'static str) {
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    /// The exchanges that belong to the verdict that is being given.
    pub(super) fn take_exchanges(&mut self) -> Vec<Exchange> {
        if self.exchanges.is_empty() {
            return self.shared_exchanges.clone();
        }
        let mut taken = std::mem::take(&mut self.exchanges);
        if taken.len() > KEPT_EXCHANGES {
            taken.drain(KEPT_EXCHANGES / 2..taken.len() - KEPT_EXCHANGES / 2);
        }
        self.shared_exchanges.clone_from(&taken);
        taken
    }
}

/// What a `deliver` call left behind.
#[derive(Debug)]
pub struct CallReport {
    #[allow(missing_docs)]
    pub end: CallEnd,
    /// Which items were settled.
    pub settled: Vec<bool>,
    /// For the items that were not: a request of the call may have had an effect.
    pub maybe_sent: bool,
    /// Exchanges for the items that were not settled.
    pub exchanges: Vec<Exchange>,
    /// On a dry run: what would have been sent, in order.
    pub rehearsed: Vec<Rehearsed>,
    /// Odd things the plugin did.
    pub notes: Vec<&'static str>,
}

/// Calls `deliver` in a fresh instance. Never fails: whatever goes wrong is in the report.
pub async fn deliver(engine: &Engine, plugin: &Inspected, env: Arc<CallEnv>, items: Vec<wit_outbound::Item>) -> CallReport {
    let slot = engine.slot().await;
    let deadline = Instant::now() + Duration::from_millis(u64::from(env.manifest.limits.timeout_ms));
    let ids = items.iter().map(|item| item.id.clone()).collect();
    let context = env.context.clone();
    let mut store = CallState::new(env, deadline, ids).into_store(engine);
    let call = async {
        let instance = plugin.pre.instantiate_async(&mut store).await?;
        let outbound = plugin.indices.load(&mut store, &instance)?;
        outbound.leadwire_channel_outbound().call_deliver(&mut store, &context, &items).await
    };
    let ended = tokio::time::timeout_at(deadline, call).await;
    let mut state = store.into_data();
    drop(slot);
    log_stdio(&mut state);
    let end = match ended {
        Ok(Ok(Ok(()))) => CallEnd::Returned,
        Ok(Ok(Err(stop))) => CallEnd::Stopped(stop_from_wit(stop, &state)),
        Ok(Err(error)) => CallEnd::Failed(explain(&error, &state)),
        Err(_) => CallEnd::Failed(timed_out(&state.env.manifest.limits)),
    };
    // After a clean end only a lost answer leaves doubt; after a trap any write may have been the last thing it did.
    let maybe_sent = state.ambiguous || (matches!(end, CallEnd::Failed(_)) && state.wrote);
    CallReport {
        maybe_sent,
        exchanges: state.take_exchanges(),
        rehearsed: std::mem::take(&mut state.rehearsed),
        notes: std::mem::take(&mut state.notes),
        settled: state.settled,
        end,
    }
}

/// Calls `check` in a fresh instance.
pub async fn check(engine: &Engine, plugin: &Inspected, env: Arc<CallEnv>) -> Result<Vec<(String, String)>, CallEnd> {
    let slot = engine.aside().await;
    let deadline = Instant::now() + Duration::from_millis(u64::from(env.manifest.limits.timeout_ms));
    let context = env.context.clone();
    let mut store = CallState::new(env, deadline, Vec::new()).into_store(engine);
    let call = async {
        let instance = plugin.pre.instantiate_async(&mut store).await?;
        let outbound = plugin.indices.load(&mut store, &instance)?;
        outbound.leadwire_channel_outbound().call_check(&mut store, &context).await
    };
    let ended = tokio::time::timeout_at(deadline, call).await;
    let mut state = store.into_data();
    drop(slot);
    log_stdio(&mut state);
    match ended {
        Ok(Ok(Ok(info))) => Ok(info.into_iter().map(|attr| (attr.name, state.mask(&attr.value))).collect()),
        Ok(Ok(Err(stop))) => Err(CallEnd::Stopped(stop_from_wit(stop, &state))),
        Ok(Err(error)) => Err(CallEnd::Failed(explain(&error, &state))),
        Err(_) => Err(CallEnd::Failed(timed_out(&state.env.manifest.limits))),
    }
}

/// A store for the trial instance at install; its imports are linked but not called.
pub fn trial_store(engine: &Engine, env: Arc<CallEnv>) -> Store<CallState> {
    let deadline = Instant::now() + Duration::from_secs(10);
    CallState::new(env, deadline, Vec::new()).into_store(engine)
}

fn stop_from_wit(stop: wit::types::Stop, state: &CallState) -> Stop {
    use wit::types::Stop as Wit;
    let pause = |ms: Option<u32>| ms.map(|ms| Duration::from_millis(ms.into()));
    let text = |text: String| state.mask_cut(&text, 2_000);
    match stop {
        Wit::RateLimited(ms) => Stop::RateLimited(pause(ms)),
        Wit::CredentialInvalid(why) => Stop::CredentialInvalid(text(why)),
        Wit::Unavailable(ms) => Stop::Unavailable(pause(ms)),
        Wit::Misconfigured(why) => Stop::Misconfigured(text(why)),
        Wit::Internal(why) => Stop::Internal(text(why)),
    }
}

fn timed_out(limits: &Limits) -> Refusal {
    Refusal::new("deadline", format!("the plugin did not end within {} ms and was stopped", limits.timeout_ms))
}

/// A trap in words an admin understands.
fn explain(error: &wasmtime::Error, state: &CallState) -> Refusal {
    let limits = &state.env.manifest.limits;
    if let Some(fault) = error.downcast_ref::<Fault>() {
        return match fault {
            Fault::Cpu => Refusal::new("cpu_budget", format!("the plugin used more than {} ms of CPU time and was stopped", limits.cpu_ms)),
            Fault::Memory => {
                Refusal::new("memory_limit", format!("the plugin used more than {} MiB of memory and was stopped", limits.memory_mb))
            }
            Fault::Log => Refusal::new("log_flood", "the plugin wrote thousands of log lines in one call and was stopped"),
        };
    }
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return Refusal::new("exit", format!("the plugin ended itself with exit code {}", exit.0));
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => Refusal::new("stack_overflow", "the plugin recursed too deep and was stopped"),
        // The stack of Rust and C is in the guest's own memory, at its low end.
        Some(Trap::MemoryOutOfBounds) => {
            Refusal::new("memory_fault", "the plugin reached outside its memory (mostly it recursed too deep) and was stopped")
        }
        Some(Trap::UnreachableCodeReached) => match &state.panic {
            Some(text) => Refusal::new("panic", format!("the plugin failed: {text}")),
            None => Refusal::new("panic", "the plugin failed (it ran into code that must not be reached)"),
        },
        Some(trap) => Refusal::new("trap", format!("the plugin failed: {trap}")),
        None if error.to_string().contains("too much data") => {
            Refusal::new("too_much_data", "the plugin handed over more data than one call may carry and was stopped")
        }
        None => {
            tracing::error!(plugin = %state.env.plugin, error = format!("{error:#}"), "a plugin call could not be made");
            Refusal::new("plugin_error", "the plugin could not be called; the operator's log says why")
        }
    }
}

fn log_stdio(state: &mut CallState) {
    let Some((_, _, out)) = state.wasi.take() else { return };
    let text = out.text();
    for line in text.lines() {
        state.log_lines += 1;
        super::caps::log_guest(state, wit::log::Level::Info, line, &[]);
    }
}
