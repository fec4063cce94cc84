//! Puts a whole host together and runs it: the one place where the parts meet.

use std::io::{IsTerminal, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::chore;
use crate::clock::Clock;
use crate::config::{Config, Database};
use crate::egress::{Egress, EgressLimits, Grant, GuardError, OperatorPolicy};
use crate::keys;
use crate::lane::{Deps, LaneConfig, Lanes};
use crate::mail::{Mailer, Operator, Resolve, ResolveError};
use crate::metrics::{Metrics, StoreMetrics};
use crate::model::Pin;
use crate::plugin::bindings::wit::types::Context as CallContext;
use crate::plugin::call::{CallEnv, NoEffects};
use crate::plugin::engine::Engine;
use crate::plugin::manifest::Manifest;
use crate::plugin::registry::{self, Pins, Registry, RegistryOptions};
use crate::private;
use crate::secrets::{SecretSet, Vault};
use crate::store::postgres::{PostgresOptions, PostgresStore};
use crate::store::sqlite::{SqliteStore, StoreOptions};
use crate::store::{Store, StoreError};

/// How long calls in flight may take at a stop before they are left to their leases.
const DRAIN: Duration = Duration::from_secs(30);

/// A running host.
pub struct Host {
    /// Where it listens.
    pub address: SocketAddr,
    #[allow(missing_docs)]
    pub app: App,
    #[allow(missing_docs)]
    pub lanes: Lanes,
    #[allow(missing_docs)]
    pub registry: Arc<Registry>,
    #[allow(missing_docs)]
    pub store: Arc<dyn Store>,
    stop_intake: CancellationToken,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// Opens everything, starts everything, and answers when requests are being taken.
pub async fn start(config: Config, clock: Arc<dyn Clock>) -> anyhow::Result<Host> {
    let config = Arc::new(config);
    private::folder(&config.data_dir).with_context(|| format!("cannot make the data folder {}", config.data_dir.display()))?;
    let (master_key, made) = keys::master_key(&config)?;
    let vault = Arc::new(Vault::new(master_key, Vec::new()));
    // The phone table takes a moment to read; the first lead should not wait for it.
    tokio::task::spawn_blocking(crate::policy::normalise::warm_up);
    let metrics = Arc::new(Metrics::new(&*clock));
    let store = open_store(&config, &metrics.store).await?;
    keys::check_master(&*store, &vault, &config, made).await?;
    keys::ensure_admin(&*store, &config, &*clock, &mut *terminal()).await?;

    let (egress, mailer) = outgoing(&config)?;
    let registry = open_registry(&config, &store, &vault, &clock, &egress, &mailer).await?;
    let lanes = Lanes::new(Deps {
        store: store.clone(),
        registry: registry.clone(),
        egress,
        mailer: mailer.clone(),
        vault: vault.clone(),
        clock: clock.clone(),
        metrics: metrics.sending.clone(),
        config: LaneConfig { node: config.node.clone(), max_calls: config.max_calls, ..LaneConfig::default() },
    });
    let mut app = App::new(store.clone(), registry.clone(), Arc::new(lanes.clone()), vault, clock, config.clone());
    app.metrics = metrics;

    let listener = tokio::net::TcpListener::bind(config.listen).await.with_context(|| {
        format!("cannot listen on {}: is another program using it? Set LEADWIRE_LISTEN to choose another", config.listen)
    })?;
    let address = listener.local_addr()?;
    let (stop_intake, stop) = (CancellationToken::new(), CancellationToken::new());
    let mut tasks = JoinSet::new();
    tasks.spawn(crate::http::serve(listener, app.clone(), stop_intake.clone()));
    tasks.spawn(lanes.clone().run(stop.clone()));
    tasks.spawn(registry::watch(registry.clone(), stop.clone()));
    tasks.spawn(chore::run(app.clone(), stop.clone()));
    tasks.spawn(chore::tasks::run(app.clone(), stop.clone()));
    tasks.spawn(chore::index::run(app.clone(), stop.clone()));
    tasks.spawn(chore::retention::run(app.clone(), stop.clone()));
    tasks.spawn(chore::erasures::run(app.clone(), stop.clone()));
    let tending = stop.clone();
    tasks.spawn(async move { mailer.tend(tending).await });
    tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "leadwire takes leads");
    Ok(Host { address, app, lanes, registry, store, stop_intake, stop, tasks })
}

/// Opens the database that the settings name, and brings its schema up to date.
pub async fn open_store(config: &Config, metrics: &StoreMetrics) -> Result<Arc<dyn Store>, StoreError> {
    let (max_backlog, metrics) = (config.max_backlog, metrics.clone());
    Ok(match &config.database {
        Database::Sqlite(path) => {
            Arc::new(SqliteStore::open(path, StoreOptions { max_backlog, metrics, ..StoreOptions::default() }).await?)
        }
        Database::Postgres(url) => {
            Arc::new(PostgresStore::open(url.expose(), PostgresOptions { max_backlog, metrics, ..PostgresOptions::default() }).await?)
        }
    })
}

impl Host {
    /// Stops taking requests, lets the calls in flight end, and closes. What is queued goes on after the next start.
    pub async fn stop(mut self) {
        self.stop_intake.cancel();
        self.stop.cancel();
        let ended = tokio::time::timeout(DRAIN, async { while self.tasks.join_next().await.is_some() {} }).await;
        if ended.is_err() {
            tracing::warn!("calls were still running after {DRAIN:?}; their deliveries are tried again when their lease ends");
        }
    }
}

/// Where the first admin key is shown: a person's terminal. Standard error that goes to a file or a collector is a log,
/// and no key belongs there; it is in its file.
fn terminal() -> Box<dyn Write + Send> {
    let out = std::io::stderr();
    if out.is_terminal() { Box::new(out) } else { Box::new(std::io::sink()) }
}

fn outgoing(config: &Config) -> anyhow::Result<(Arc<Egress>, Arc<Mailer>)> {
    let policy = OperatorPolicy {
        allow: config.egress.allow.clone(),
        ports: config.egress.ports.iter().copied().collect(),
        rewrite: config.egress.rewrite.clone(),
        own: own_addresses(),
    };
    for (host, target) in &policy.rewrite {
        tracing::warn!("LEADWIRE_EGRESS_REWRITE: requests for {host} go to {target} instead");
    }
    if !policy.allow.is_empty() {
        tracing::warn!("LEADWIRE_EGRESS_ALLOW: plugins may reach the private networks {:?}", policy.allow);
    }
    let egress = Arc::new(Egress::new(policy, &EgressLimits::default())?);
    let operator = Operator {
        ehlo_name: ehlo_name(config),
        extra_roots_pem: extra_roots(config)?,
        allow_plain: config.smtp_allow_plain,
        allow_networks: config.egress.allow.clone(),
        extra_ports: config.egress.ports.clone(),
        ..Operator::default()
    };
    let mailer = Arc::new(Mailer::new(operator, Arc::new(Guarded(egress.clone()))));
    Ok((egress, mailer))
}

/// The addresses of this machine as it starts: public ones among them are no destination for a plugin either.
fn own_addresses() -> Vec<IpAddr> {
    match if_addrs::get_if_addrs() {
        Ok(interfaces) => interfaces.into_iter().map(|interface| interface.ip()).collect(),
        Err(error) => {
            tracing::warn!(%error, "this machine's own addresses cannot be listed: plugins are kept from its private ones only");
            Vec::new()
        }
    }
}

fn ehlo_name(config: &Config) -> String {
    if config.smtp_ehlo_name.is_empty() { Operator::default().ehlo_name } else { config.smtp_ehlo_name.clone() }
}

fn extra_roots(config: &Config) -> anyhow::Result<String> {
    match &config.smtp_roots_file {
        Some(path) => std::fs::read_to_string(path).with_context(|| format!("cannot read smtp_roots_file {}", path.display())),
        None => Ok(String::new()),
    }
}

/// The egress guard as the mailer's resolver: mail servers are held to the same address policy.
struct Guarded(Arc<Egress>);

#[async_trait]
impl Resolve for Guarded {
    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
        // Which ports mail may use is the mailer's rule; the guard judges the addresses.
        let found = self.0.guard().with_ports([port]).resolve(host, port).await;
        found.map_err(|error| match error {
            GuardError::Lookup(_) => ResolveError::Failed(error.to_string()),
            _ => ResolveError::Denied(error.to_string()),
        })
    }
}

/// Decisions about plugin versions, in the store.
struct StoredPins(Arc<dyn Store>);

#[async_trait]
impl Pins for StoredPins {
    async fn set(&self, pin: Pin) -> Result<(), String> {
        self.0.set_pin(&pin).await.map_err(|e| e.to_string())
    }
}

async fn open_registry(
    config: &Config,
    store: &Arc<dyn Store>,
    vault: &Vault,
    clock: &Arc<dyn Clock>,
    egress: &Arc<Egress>,
    mailer: &Arc<Mailer>,
) -> anyhow::Result<Arc<Registry>> {
    let engine = Arc::new(Engine::new(config.max_calls)?);
    let options = RegistryOptions {
        channels_dir: config.channels_dir.clone(),
        data_dir: config.data_dir.clone(),
        code_key: vault.code_key(),
        pins: store.pins().await?,
        trial: trial_env(clock.clone(), egress.clone(), mailer.clone()),
        clock: clock.clone(),
    };
    Ok(Registry::open(engine, Arc::new(StoredPins(store.clone())), options).await?)
}

/// What a trial instance at install gets: no credential, no secrets, nowhere to send.
fn trial_env(clock: Arc<dyn Clock>, egress: Arc<Egress>, mailer: Arc<Mailer>) -> registry::TrialEnv {
    Arc::new(move |manifest: Arc<Manifest>| {
        let context = CallContext {
            project: String::new(),
            entity: None,
            credential: String::new(),
            correlation: "install".into(),
            config: "{}".into(),
            locale: "en".into(),
            time_zone: "UTC".into(),
            budget_ms: 0,
            dry_run: true,
        };
        Arc::new(CallEnv {
            plugin: format!("{}@{}", manifest.channel, manifest.version),
            context,
            secrets: Arc::new(SecretSet::new()),
            grant: Arc::new(Grant::none()),
            egress: egress.clone(),
            mailer: mailer.clone(),
            account: None,
            manifest,
            clock: clock.clone(),
            effects: Arc::new(NoEffects),
        })
    })
}
