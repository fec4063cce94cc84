//! What is counted, for `GET /metrics`.
//!
//! Each part of the host has a struct of its own here, whose fields it counts into; a part that wants to count something
//! adds its family there (or a struct) and a line to `docs/metrics.md`. Counting is an atomic or a short lock. Labels have
//! few values: channels, outcomes, routes; never a project, a credential or anything of a person.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::clock::Clock;
use crate::model::{AttemptOutcome, BatchStatus, CredentialState, DeliveryStatus, Removed, Timestamp};

/// Seconds.
const ANSWERS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];
const CALLS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];
const LEADS: [f64; 15] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 3_600.0, 21_600.0, 86_400.0];
const TURNS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
/// Requests.
const TOGETHER: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 512.0];

/// A family of histograms with the same buckets.
type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfChannel {
    pub channel: String,
}

#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfAttempt {
    pub channel: String,
    pub outcome: &'static str,
}

#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfDelivery {
    pub channel: String,
    pub status: &'static str,
}

#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfResult {
    pub result: &'static str,
}

#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfStatus {
    pub status: &'static str,
}

#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfState {
    pub state: &'static str,
}

#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfKind {
    pub kind: &'static str,
}

#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfReason {
    pub reason: &'static str,
}

#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfRoute {
    pub route: String,
}

#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfRequest {
    pub method: &'static str,
    pub route: String,
    pub status: u16,
}

/// Everything that is counted. One for the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    #[allow(missing_docs)]
    pub http: HttpMetrics,
    #[allow(missing_docs)]
    pub sending: SendingMetrics,
    #[allow(missing_docs)]
    pub store: StoreMetrics,
    #[allow(missing_docs)]
    pub events: EventMetrics,
    #[allow(missing_docs)]
    pub cleanups: CleanupMetrics,
    /// What is looked up when it is asked for.
    pub seen: SeenMetrics,
}

/// Requests, and the leads that came with them.
#[derive(Debug, Clone)]
pub struct HttpMetrics {
    /// Leads that were sent in requests of their own.
    pub leads: Family<OfResult, Counter>,
    #[allow(missing_docs)]
    pub requests: Family<OfRequest, Counter>,
    /// Until the answer began.
    pub durations: Histograms<OfRoute>,
}

/// Calls, and what became of deliveries.
#[derive(Debug, Clone)]
pub struct SendingMetrics {
    #[allow(missing_docs)]
    pub attempts: Family<OfAttempt, Counter>,
    #[allow(missing_docs)]
    pub durations: Histograms<OfChannel>,
    /// Deliveries that ended with an attempt.
    pub deliveries: Family<OfDelivery, Counter>,
    /// Deliveries that are tried again.
    pub retries: Family<OfChannel, Counter>,
    /// From a lead's delivery being accepted to its being delivered.
    pub speed: Histograms<OfChannel>,
    #[allow(missing_docs)]
    pub batches: Family<OfStatus, Counter>,
    #[allow(missing_docs)]
    pub breaker_opens: Family<OfChannel, Counter>,
    #[allow(missing_docs)]
    pub plugin_faults: Family<OfChannel, Counter>,
    /// Calls that run.
    pub calls: Gauge,
    /// Lanes with something to send.
    pub lanes: Family<OfState, Gauge>,
}

/// Transactions that write.
#[derive(Debug, Clone)]
pub struct StoreMetrics {
    #[allow(missing_docs)]
    pub durations: Histogram,
    /// How many requests shared one.
    pub requests: Histogram,
    /// Those that were rolled back.
    pub failures: Counter,
}

/// Streams of live events.
#[derive(Debug, Clone, Default)]
pub struct EventMetrics {
    #[allow(missing_docs)]
    pub opened: Counter,
    /// Ended from this side.
    pub dropped: Family<OfReason, Counter>,
}

/// The daily removal of what is too old.
#[derive(Debug, Clone)]
pub struct CleanupMetrics {
    /// Those that ended, one for each project and time.
    pub runs: Counter,
    /// Those that broke off; each is made again.
    pub failures: Counter,
    removed: Family<OfKind, Counter>,
}

/// What is looked up when it is asked for.
#[derive(Debug, Clone, Default)]
pub struct SeenMetrics {
    /// 1: the database takes writes.
    pub store_up: Gauge,
    /// Deliveries that wait or are being sent.
    pub backlog: Family<OfChannel, Gauge>,
    /// How long the one that waits longest has been due.
    pub overdue: Family<OfChannel, Gauge<f64, AtomicU64>>,
    /// Of the oldest lead that was not delivered.
    pub oldest_lead: Gauge<f64, AtomicU64>,
    #[allow(missing_docs)]
    pub streams: Gauge,
    memory: Gauge,
    files: Gauge,
}

impl Default for HttpMetrics {
    fn default() -> Self {
        let durations = Family::new_with_constructor((|| Histogram::new(ANSWERS)) as fn() -> Histogram);
        let metrics = Self { leads: Family::default(), requests: Family::default(), durations };
        // What never happened is 0 and not missing.
        for result in ["accepted", "unrouted", "duplicate", "replayed", "overloaded"] {
            drop(metrics.leads.get_or_create(&OfResult { result }));
        }
        metrics
    }
}

impl Default for SendingMetrics {
    fn default() -> Self {
        let metrics = Self {
            attempts: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(CALLS)),
            deliveries: Family::default(),
            retries: Family::default(),
            speed: Family::new_with_constructor(|| Histogram::new(LEADS)),
            batches: Family::default(),
            breaker_opens: Family::default(),
            plugin_faults: Family::default(),
            calls: Gauge::default(),
            lanes: Family::default(),
        };
        use BatchStatus::{Cancelled, Completed, Failed, Partial};
        for status in [Completed, Partial, Failed, Cancelled] {
            drop(metrics.batches.get_or_create(&OfStatus { status: batch_word(status) }));
        }
        metrics
    }
}

impl Default for StoreMetrics {
    fn default() -> Self {
        Self { durations: Histogram::new(TURNS), requests: Histogram::new(TOGETHER), failures: Counter::default() }
    }
}

impl Default for CleanupMetrics {
    fn default() -> Self {
        let metrics = Self { runs: Counter::default(), failures: Counter::default(), removed: Family::default() };
        metrics.removed(&Removed::default());
        metrics
    }
}

impl Metrics {
    /// Nothing counted yet; the process began now.
    pub fn new(clock: &dyn Clock) -> Self {
        let mut registry = Registry::default();
        let (http, sending, store) = (HttpMetrics::default(), SendingMetrics::default(), StoreMetrics::default());
        let (events, cleanups, seen) = (EventMetrics::default(), CleanupMetrics::default(), SeenMetrics::default());
        let began = Gauge::<f64, AtomicU64>::default();
        began.set(clock.now().as_millis() as f64 / 1_000.0);
        registry.register("process_start_time_seconds", "When the process began, in seconds since 1970", began);
        registry.register("process_resident_memory_bytes", "Memory of the process in RAM", seen.memory.clone());
        registry.register("process_open_fds", "Open file descriptors of the process", seen.files.clone());
        let own = registry.sub_registry_with_prefix("leadwire");
        own.register("build", "The running version", Info::new([("version", env!("CARGO_PKG_VERSION"))].to_vec()));
        http.register(own);
        sending.register(own);
        store.register(own);
        events.register(own);
        cleanups.register(own);
        seen.register(own);
        Self { registry, http, sending, store, events, cleanups, seen }
    }

    /// All of it in the OpenMetrics text format.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        self.seen.look_at_process();
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl HttpMetrics {
    fn register(&self, to: &mut Registry) {
        to.register("leads", "Leads that were sent in requests of their own, by what became of the request", self.leads.clone());
        to.register("http_requests", "Requests that were answered", self.requests.clone());
        to.register("http_request_duration_seconds", "Time from a request's header to its answer's", self.durations.clone());
    }
}

impl SendingMetrics {
    fn register(&self, to: &mut Registry) {
        to.register("attempts", "Calls of plugins for a delivery, by outcome", self.attempts.clone());
        to.register("attempt_duration_seconds", "Time that a call took for a delivery", self.durations.clone());
        to.register("deliveries", "Deliveries that ended with an attempt, by status", self.deliveries.clone());
        to.register("retries", "Deliveries that were queued again after an attempt", self.retries.clone());
        to.register("lead_delivery_duration_seconds", "Time from a lead being accepted to its being delivered", self.speed.clone());
        to.register("batches", "Batches that ended, by status", self.batches.clone());
        to.register("breaker_opens", "Lanes stopped after too many failures in a row", self.breaker_opens.clone());
        to.register("plugin_faults", "Calls in which the plugin itself failed", self.plugin_faults.clone());
        to.register("plugin_calls", "Calls of plugins that run", self.calls.clone());
        to.register("lanes", "Credentials with something to send, by state", self.lanes.clone());
    }
}

impl StoreMetrics {
    fn register(&self, to: &mut Registry) {
        to.register("store_turn_duration_seconds", "Time that a writing transaction took, its flush included", self.durations.clone());
        to.register("store_turn_requests", "Requests that shared a writing transaction", self.requests.clone());
        to.register("store_turn_failures", "Writing transactions that were rolled back", self.failures.clone());
    }
}

impl EventMetrics {
    fn register(&self, to: &mut Registry) {
        to.register("event_streams_opened", "Streams of live events that began", self.opened.clone());
        to.register("event_streams_dropped", "Streams of live events that the host ended, by reason", self.dropped.clone());
    }
}

impl CleanupMetrics {
    fn register(&self, to: &mut Registry) {
        to.register("cleanups", "Clean-ups that ended, one for each project and time", self.runs.clone());
        to.register("cleanup_failures", "Clean-ups that broke off", self.failures.clone());
        to.register("cleanup_removed_rows", "Rows that were removed for their age, by kind", self.removed.clone());
    }

    /// Rows that went.
    pub fn removed(&self, rows: &Removed) {
        let Removed { leads, batches, deliveries, attempts, tasks, events, audit } = *rows;
        let kinds = [
            ("leads", leads),
            ("batches", batches),
            ("deliveries", deliveries),
            ("attempts", attempts),
            ("tasks", tasks),
            ("events", events),
            ("audit", audit),
        ];
        for (kind, count) in kinds {
            self.removed.get_or_create(&OfKind { kind }).inc_by(count);
        }
    }
}

impl SeenMetrics {
    fn register(&self, to: &mut Registry) {
        to.register("store_up", "1 while the database answers and takes writes", self.store_up.clone());
        to.register("backlog_deliveries", "Deliveries that wait or are being sent", self.backlog.clone());
        to.register("backlog_overdue_seconds", "How long the delivery that waits longest has been due", self.overdue.clone());
        to.register("oldest_undelivered_lead_age_seconds", "Age of the oldest lead that waits", self.oldest_lead.clone());
        to.register("event_streams", "Streams of live events that are open", self.streams.clone());
    }

    /// Linux says it in files; elsewhere these stay 0.
    fn look_at_process(&self) {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse::<i64>().ok());
        self.memory.set(resident.map_or(0, |kib| kib * 1_024));
        // The look itself has one open.
        let files = std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count().saturating_sub(1));
        self.files.set(i64::try_from(files).unwrap_or(i64::MAX));
    }
}

impl SendingMetrics {
    /// An attempt that was written.
    pub fn attempt(&self, channel: &str, outcome: AttemptOutcome, duration_ms: u32) {
        let channel = channel.to_owned();
        // A lost one is found by the next: how long it took, nobody knows.
        if outcome != AttemptOutcome::Lost {
            self.durations.get_or_create(&OfChannel { channel: channel.clone() }).observe(f64::from(duration_ms) / 1_000.0);
        }
        self.attempts.get_or_create(&OfAttempt { channel, outcome: outcome.name() }).inc();
    }

    /// A delivery that ended with an attempt.
    pub fn ended(&self, channel: &str, status: DeliveryStatus) {
        self.deliveries.get_or_create(&OfDelivery { channel: channel.to_owned(), status: status.name() }).inc();
    }

    /// A lead that arrived.
    pub fn arrived(&self, channel: &str, accepted_at: Timestamp, now: Timestamp) {
        self.speed.get_or_create(&OfChannel { channel: channel.to_owned() }).observe(now.since(accepted_at).as_secs_f64());
    }

    /// A delivery that is tried again.
    pub fn again(&self, channel: &str) {
        self.retries.get_or_create(&OfChannel { channel: channel.to_owned() }).inc();
    }

    /// A batch that ended.
    pub fn batch(&self, status: BatchStatus) {
        self.batches.get_or_create(&OfStatus { status: batch_word(status) }).inc();
    }

    /// Every lane with something to send, by its state.
    pub fn lanes(&self, states: impl Iterator<Item = CredentialState>) {
        use CredentialState::{Active, BreakerOpen, Invalid, Paused, PluginMissing, Throttled};
        let mut counts = [Active, Paused, Invalid, BreakerOpen, Throttled, PluginMissing].map(|state| (state, 0));
        for state in states {
            counts.iter_mut().filter(|(known, _)| *known == state).for_each(|(_, count)| *count += 1);
        }
        for (state, count) in counts {
            self.lanes.get_or_create(&OfState { state: state_word(state) }).set(count);
        }
    }
}

/// As the API spells it.
fn batch_word(status: BatchStatus) -> &'static str {
    match status {
        BatchStatus::Pending => "pending",
        BatchStatus::Completed => "completed",
        BatchStatus::Partial => "partial",
        BatchStatus::Failed => "failed",
        BatchStatus::Cancelled => "cancelled",
    }
}

/// As the API spells it.
fn state_word(state: CredentialState) -> &'static str {
    match state {
        CredentialState::Active => "active",
        CredentialState::Paused => "paused",
        CredentialState::Invalid => "invalid",
        CredentialState::BreakerOpen => "breaker_open",
        CredentialState::Throttled => "throttled",
        CredentialState::PluginMissing => "plugin_missing",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::clock::SystemClock;

    /// Something of each family, so that all are shown with their labels.
    fn touched() -> Metrics {
        let metrics = Metrics::new(&SystemClock);
        let channel = || OfChannel { channel: "webhook".to_owned() };
        let route = || "/api/leads".to_owned();
        metrics.http.requests.get_or_create(&OfRequest { method: "GET", route: route(), status: 200 }).inc();
        metrics.http.durations.get_or_create(&OfRoute { route: route() }).observe(0.1);
        metrics.sending.attempt("webhook", AttemptOutcome::Delivered, 12);
        metrics.sending.ended("webhook", DeliveryStatus::Delivered);
        metrics.sending.arrived("webhook", Timestamp::from_millis(0), Timestamp::from_millis(500));
        metrics.sending.again("webhook");
        metrics.sending.breaker_opens.get_or_create(&channel()).inc();
        metrics.sending.plugin_faults.get_or_create(&channel()).inc();
        metrics.sending.lanes([CredentialState::Paused].into_iter());
        metrics.store.durations.observe(0.001);
        metrics.events.dropped.get_or_create(&OfReason { reason: "too_slow" }).inc();
        metrics.seen.backlog.get_or_create(&channel()).set(1);
        metrics.seen.overdue.get_or_create(&channel()).set(1.0);
        metrics
    }

    /// Name → kind and labels, from the text.
    fn shown(text: &str) -> BTreeMap<String, (String, String)> {
        let mut families = BTreeMap::new();
        for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').unwrap();
            let sample = text.lines().find(|line| !line.starts_with('#') && line.starts_with(name)).unwrap();
            let labels = sample.split_once('{').map_or("", |(_, rest)| rest.split_once('}').unwrap().0);
            let names: Vec<_> =
                labels.split(',').filter_map(|label| label.split_once('=')).map(|(name, _)| name).filter(|name| *name != "le").collect();
            let name = match kind {
                "counter" => format!("{name}_total"),
                "info" => format!("{name}_info"),
                _ => name.to_owned(),
            };
            families.insert(name, (kind.to_owned(), names.join(", ")));
        }
        families
    }

    #[test]
    fn the_page_names_every_family_with_its_kind_and_labels() {
        let page = include_str!("../../docs/metrics.md");
        let mut described = BTreeMap::new();
        for row in page.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let (name, kind, labels) = (cells[1].trim_matches('`'), cells[2], cells[3].replace('`', ""));
            assert!(!cells[4].is_empty(), "{name} has no meaning");
            described.insert(name.to_owned(), (kind.to_owned(), labels));
        }
        let text = touched().text().unwrap();
        assert_eq!(described, shown(&text), "docs/metrics.md against the answer");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn the_process_is_looked_at() {
        let metrics = touched();
        metrics.text().unwrap();
        assert!(metrics.seen.memory.get() > 1_000_000 && metrics.seen.files.get() > 2);
    }
}
