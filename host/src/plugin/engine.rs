//! The engine: one wasmtime configuration, its pool of instances, and the ticks that meter CPU time.
//!
//! Every call gets a fresh instance. The measured reasons for each setting are in `docs/ARCHITECTURE.md`, "Engine".

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::Semaphore;
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::PluginError;

/// Length of one CPU tick. A guest that keeps the CPU is interrupted this often so that others get their turn.
pub const TICK: Duration = Duration::from_millis(5);
/// Largest memory any plugin may ask for.
pub const MAX_MEMORY_BYTES: usize = 256 << 20;
/// Calls at once that are no deliveries.
const ASIDES: u32 = 16;
/// What a component may be made of. A Rust plugin has 3 core instances and 2 tables; one with a WASI adapter 4.
const INSTANCES_PER_COMPONENT: u32 = 20;
const TABLES_PER_COMPONENT: u32 = 8;
/// Entries of one table.
pub const MAX_TABLE_ELEMENTS: usize = 20_000;
/// Bytes that one call of an import or export may copy; above the largest legal batch and body.
pub const MAX_COPY_BYTES: usize = 24 << 20;

/// The engine and its pool. One for the process; dropped when the last clone goes.
pub struct Engine {
    inner: wasmtime::Engine,
    slots: Arc<Semaphore>,
    /// Checks of credentials and trials of new plugins: at most so many, so that deliveries always find a slot.
    asides: Arc<Semaphore>,
    ticker: Arc<Ticker>,
    thread: Option<JoinHandle<()>>,
}

/// What the ticking thread shares with the calls.
struct Ticker {
    /// Calls that run now; no ticks are needed while there are none.
    running: AtomicUsize,
    stop: AtomicBool,
}

impl Engine {
    /// An engine for up to `calls` deliveries at once, and some calls of other kinds.
    pub fn new(calls: u32) -> Result<Self, PluginError> {
        let calls = calls.saturating_add(ASIDES);
        let inner = wasmtime::Engine::new(&config(calls)).map_err(|e| PluginError::Engine(format!("{e:#}")))?;
        let ticker = Arc::new(Ticker { running: AtomicUsize::new(0), stop: AtomicBool::new(false) });
        let thread = std::thread::Builder::new()
            .name("cpu-ticks".into())
            .spawn({
                let (engine, ticker) = (inner.weak(), ticker.clone());
                move || ticker.run(&engine)
            })
            .map_err(|e| PluginError::Engine(e.to_string()))?;
        let semaphore = |permits: u32| Arc::new(Semaphore::new(permits as usize));
        Ok(Self { inner, slots: semaphore(calls), asides: semaphore(ASIDES), ticker, thread: Some(thread) })
    }

    /// The wasmtime engine.
    pub fn wasmtime(&self) -> &wasmtime::Engine {
        &self.inner
    }

    /// Waits for a free slot of the pool. A full pool would fail at once, so calls queue here instead.
    pub async fn slot(&self) -> Slot {
        // The semaphore is never closed.
        let permit = self.slots.clone().acquire_owned().await.ok();
        if self.ticker.running.fetch_add(1, Ordering::AcqRel) == 0
            && let Some(thread) = &self.thread
        {
            thread.thread().unpark();
        }
        Slot { _permits: [permit, None], ticker: self.ticker.clone() }
    }

    /// The same for a call that is no delivery.
    pub async fn aside(&self) -> Slot {
        let aside = self.asides.clone().acquire_owned().await.ok();
        let mut slot = self.slot().await;
        slot._permits[1] = aside;
        slot
    }

    /// Calls that run now.
    pub fn running(&self) -> usize {
        self.ticker.running.load(Ordering::Relaxed)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.ticker.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

impl Ticker {
    fn run(&self, engine: &wasmtime::EngineWeak) {
        while !self.stop.load(Ordering::Acquire) {
            if self.running.load(Ordering::Acquire) == 0 {
                std::thread::park();
                continue;
            }
            std::thread::sleep(TICK);
            match engine.upgrade() {
                Some(engine) => engine.increment_epoch(),
                None => return,
            }
        }
    }
}

/// The right to run one call. Given back only after the call's store is gone: until then its slot of the pool is taken.
pub struct Slot {
    _permits: [Option<tokio::sync::OwnedSemaphorePermit>; 2],
    ticker: Arc<Ticker>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.ticker.running.fetch_sub(1, Ordering::AcqRel);
    }
}

fn config(calls: u32) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(calls)
        // Room for every call to be of the largest kind, or one plugin's calls could fail for another's sake.
        .total_core_instances(calls.saturating_mul(INSTANCES_PER_COMPONENT))
        .total_memories(calls)
        .total_tables(calls.saturating_mul(TABLES_PER_COMPONENT))
        .table_elements(MAX_TABLE_ELEMENTS)
        .total_stacks(calls)
        .max_memories_per_component(1)
        .max_core_instances_per_component(INSTANCES_PER_COMPONENT)
        .max_tables_per_component(TABLES_PER_COMPONENT)
        .max_memory_size(MAX_MEMORY_BYTES)
        .max_unused_warm_slots(64)
        .linear_memory_keep_resident(1 << 20)
        .table_keep_resident(16 << 10)
        .async_stack_keep_resident(32 << 10)
        // Resetting a slot then touches only the pages a call has touched: the one setting that matters for speed.
        .pagemap_scan(Enabled::Auto);
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        // A new plugin is compiled beside the traffic: it gets one core, the traffic keeps the others.
        .parallel_compilation(false)
        // Only needed for `async` in WIT, and costs 15 µs a fresh instance.
        .concurrency_support(false)
        .async_stack_size(512 << 10)
        .max_wasm_stack(256 << 10)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}
