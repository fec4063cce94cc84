//! An engine with two plugins, and what a lane would hand to their calls.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use bytes::Bytes;
use leadwire::clock::SystemClock;
use leadwire::egress::{Egress, EgressLimits, Grant, OperatorPolicy};
use leadwire::mail::{Mailer, Operator, SystemResolve};
use leadwire::model::{Exchange, Pin};
use leadwire::plugin::bindings::wit::types::{Attr, Context as CallContext, Lead, Money, Origin, Phone};
use leadwire::plugin::bindings::wit_outbound::{Item, Payload};
use leadwire::plugin::call::{self, CallEnv, Effects, KvFailure, NoEffects};
use leadwire::plugin::engine::Engine;
use leadwire::plugin::manifest::Manifest;
use leadwire::plugin::registry::{Pins, Plugin, Registry, RegistryOptions};
use leadwire::policy::outcome::{CallEnd, Verdict};
use leadwire::secrets::{SecretSet, SecretText};
use leadwire_bench::epoch::Epoch;
use leadwire_bench::sink::Sink;
use serde_json::{Map, Value, json};

/// The channels that are called.
pub const WEBHOOK: &str = "webhook";
/// See [`WEBHOOK`].
pub const BATCH: &str = "test/batch";
const SIGNING_SECRET: &str = "whsec_W2T7URdALJ/km5Hf5Kyvk2o/MqygU4SyZBpCXT+mAGc=";
/// Only for the cache of this run.
const CODE_KEY: [u8; 32] = [7; 32];

/// Everything a call needs.
pub struct World {
    registry: Arc<Registry>,
    egress: Arc<Egress>,
    mailer: Arc<Mailer>,
    secrets: Arc<SecretSet>,
    webhook: Credential,
    batch: Credential,
    sink: Sink,
    _folder: tempfile::TempDir,
}

/// What a lane makes of one credential; kept here, because making it is measured by itself.
pub struct Credential {
    pub plugin: Arc<Plugin>,
    pub config: Map<String, Value>,
    pub grant: Arc<Grant>,
}

impl World {
    /// Loads the plugins.
    pub async fn open(channels: &Path, scratch: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("calls-").tempdir_in(scratch)?;
        let own = folder.path().join("channels");
        std::fs::create_dir_all(&own)?;
        let tests = channels.with_file_name("test-channels");
        for (from, prefix) in [(channels, "webhook-"), (tests.as_path(), "test_batch-")] {
            copy(from, prefix, &own)?;
        }
        let policy = OperatorPolicy { allow: vec!["127.0.0.0/8".parse()?], ..OperatorPolicy::default() };
        let egress = Arc::new(Egress::new(policy, &EgressLimits::default())?);
        let mailer = Arc::new(Mailer::new(Operator::default(), Arc::new(SystemResolve)));
        let trial = {
            let (egress, mailer) = (egress.clone(), mailer.clone());
            move |manifest: Arc<Manifest>| {
                let (secrets, effects) = (Arc::new(SecretSet::new()), Arc::new(NoEffects));
                Arc::new(env((&egress, &mailer), manifest, "{}".into(), (Arc::new(Grant::none()), secrets), effects, true))
            }
        };
        let options = RegistryOptions {
            channels_dir: own,
            data_dir: folder.path().to_path_buf(),
            code_key: CODE_KEY,
            pins: Vec::new(),
            trial: Arc::new(trial),
            clock: Arc::new(SystemClock),
        };
        let registry = Registry::open(Arc::new(Engine::new(64)?), Arc::new(NoPins), options).await?;
        let secrets = [("signing_secret".to_owned(), SecretText::new(SIGNING_SECRET.into()))].into_iter().collect();
        let (secrets, sink) = (Arc::new(secrets), Sink::start(Epoch::begin())?);
        let (webhook, batch) = (credential(&registry, WEBHOOK, &sink, &secrets)?, credential(&registry, BATCH, &sink, &secrets)?);
        Ok(Self { registry, egress, mailer, secrets, webhook, batch, sink, _folder: folder })
    }

    /// Where the plugins send.
    pub fn url(&self) -> String {
        self.sink.url(0)
    }

    pub fn egress(&self) -> &Egress {
        &self.egress
    }

    pub fn secrets(&self) -> &SecretSet {
        &self.secrets
    }

    /// The credential of this channel.
    pub fn credential(&self, channel: &str) -> &Credential {
        if channel == BATCH { &self.batch } else { &self.webhook }
    }

    /// Rules and masker of a credential, made as for its first call.
    pub fn rights(&self) -> Result<()> {
        let Credential { plugin, config, .. } = &self.webhook;
        Grant::new(&plugin.manifest, config, self.secrets.clone())?.masker();
        Ok(())
    }

    fn env(&self, credential: &Credential, effects: Arc<dyn Effects>, dry_run: bool) -> Result<Arc<CallEnv>> {
        let config = serde_json::to_string(&credential.config)?;
        let rights = (credential.grant.clone(), self.secrets.clone());
        Ok(Arc::new(env((&self.egress, &self.mailer), credential.plugin.manifest.clone(), config, rights, effects, dry_run)))
    }

    /// One `deliver` call with so many leads, in a fresh instance.
    pub async fn deliver(&self, channel: &str, leads: usize) -> Result<()> {
        let credential = self.credential(channel);
        let counted = Arc::new(Counted::default());
        let env = self.env(credential, counted.clone(), false)?;
        let report = call::deliver(self.registry.engine(), &credential.plugin.inspected, env, items(leads)).await;
        let delivered = counted.0.load(Ordering::Relaxed);
        if report.end != CallEnd::Returned || delivered != leads {
            bail!("{channel}: {delivered} of {leads} leads were delivered: {report:?}");
        }
        Ok(())
    }

    /// A call that sends nothing.
    pub async fn dry_check(&self) -> Result<()> {
        let credential = &self.webhook;
        let env = self.env(credential, Arc::new(NoEffects), true)?;
        match call::check(self.registry.engine(), &credential.plugin.inspected, env).await {
            Ok(_) => Ok(()),
            Err(end) => bail!("webhook check: {end:?}"),
        }
    }

    /// The body that a call sends.
    pub async fn sent(&self, call: impl Future<Output = Result<()>>) -> Result<Bytes> {
        self.sink.keep_body();
        call.await?;
        self.sink.body().context("nothing arrived")
    }
}

fn credential(registry: &Registry, channel: &str, sink: &Sink, secrets: &Arc<SecretSet>) -> Result<Credential> {
    let plugin = registry.get(channel).with_context(|| format!("the plugin of {channel} was refused"))?;
    let Value::Object(config) = json!({"url": sink.url(0)}) else { bail!("settings are an object") };
    let config = plugin.check_config(&config).map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
    let grant = Arc::new(Grant::new(&plugin.manifest, &config, secrets.clone())?);
    Ok(Credential { plugin, config, grant })
}

/// The items of one call.
pub fn items(count: usize) -> Vec<Item> {
    (0..count).map(item).collect()
}

fn item(no: usize) -> Item {
    let id = format!("dlv_{no:026}");
    Item {
        idempotency_key: id.clone(),
        id,
        attempt: 1,
        maybe_sent: false,
        memo: None,
        fields: "{}".into(),
        refs: Vec::new(),
        payload: Payload::Lead(lead(no)),
    }
}

fn lead(no: usize) -> Lead {
    let text = |text: &str| Some(text.to_owned());
    Lead {
        id: format!("lead_{no:026}"),
        created_ms: 1_767_225_600_000,
        title: text("Заявка с сайта"),
        name: Some(format!("Иван Петров {no}")),
        company: None,
        phones: vec![Phone { raw: "+7 916 123-45-67".into(), e164: text("+79161234567") }],
        emails: vec![format!("ivan.{no}@example.com")],
        comment: text("Перезвонить после обеда"),
        value: Some(Money { minor: 150_000, exponent: 2, currency: "RUB".into() }),
        origin: Origin {
            page: text("https://shop.example/landing"),
            referrer: None,
            form: text("callback"),
            ip: text("203.0.113.7"),
            user_agent: None,
            utm_source: text("yandex"),
            utm_medium: text("cpc"),
            utm_campaign: text("spring"),
            utm_term: None,
            utm_content: None,
            ids: vec![Attr { name: "yclid".into(), value: no.to_string() }],
        },
        attrs: vec![Attr { name: "external_id".into(), value: format!("bench-{no}") }],
        extra: r#"{"car":"Lada Vesta"}"#.into(),
    }
}

fn env(
    (egress, mailer): (&Arc<Egress>, &Arc<Mailer>),
    manifest: Arc<Manifest>,
    config: String,
    (grant, secrets): (Arc<Grant>, Arc<SecretSet>),
    effects: Arc<dyn Effects>,
    dry_run: bool,
) -> CallEnv {
    let context = CallContext {
        project: "prj_bench".into(),
        entity: None,
        credential: "crd_bench".into(),
        correlation: "bench".into(),
        config,
        locale: "ru".into(),
        time_zone: "Europe/Moscow".into(),
        budget_ms: manifest.limits.timeout_ms,
        dry_run,
    };
    CallEnv {
        plugin: format!("{}@{}", manifest.channel, manifest.version),
        context,
        secrets,
        grant,
        egress: egress.clone(),
        mailer: mailer.clone(),
        account: None,
        manifest,
        clock: Arc::new(SystemClock),
        effects,
    }
}

fn copy(from: &Path, prefix: &str, to: &Path) -> Result<()> {
    let entries = std::fs::read_dir(from).with_context(|| format!("read {}", from.display()))?;
    let is_it = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with(prefix) && name.to_string_lossy().ends_with(".wasm");
    let file = entries.flatten().map(|entry| entry.path()).find(|path| path.file_name().is_some_and(is_it));
    let file = file.with_context(|| format!("no {prefix}*.wasm in {}", from.display()))?;
    std::fs::copy(&file, to.join(file.file_name().unwrap_or_default()))?;
    Ok(())
}

struct NoPins;

#[async_trait]
impl Pins for NoPins {
    async fn set(&self, _pin: Pin) -> Result<(), String> {
        Ok(())
    }
}

/// Counts the leads that were delivered.
#[derive(Default)]
struct Counted(AtomicUsize);

#[async_trait]
impl Effects for Counted {
    fn settle(&self, _item: usize, verdict: Verdict, _exchanges: Vec<Exchange>) {
        if matches!(verdict, Verdict::Delivered(_)) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn checkpoint(&self, _item: usize, _memo: String) -> bool {
        true
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
