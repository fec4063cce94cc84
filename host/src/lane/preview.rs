//! What a credential would send for a lead: the rendered fields and the requests its plugin would make. Nothing that changes
//! anything leaves the host, and nothing is stored.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};

use super::effects::Kv;
use super::ready::{self, Prepared, Ready};
use super::{Deps, convert, lock};
use crate::egress::Rehearsed;
use crate::model::{CredentialId, DeliveryId, Exchange, Lead};
use crate::plugin::call::{self, Effects, KvFailure};
use crate::policy::outcome::{CallEnd, Verdict};
use crate::policy::{FieldError, pointer_step, retry};
use crate::store::StoreError;
use crate::template::{Filter, Passed};

/// What is to be previewed; what is `None` is taken from the stored credential.
#[derive(Debug, Clone)]
pub struct Preview {
    #[allow(missing_docs)]
    pub lead: Lead,
    #[allow(missing_docs)]
    pub mapping: Option<Map<String, Value>>,
    /// The inner `None`: no filter.
    pub filter: Option<Option<String>>,
    /// Over the credential's config.
    pub settings: Option<Value>,
}

/// What a preview found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Previewed {
    /// The mapped fields that could be rendered.
    pub fields: Map<String, Value>,
    /// In order; empty when an error or the filter came before.
    pub requests: Vec<Rehearsed>,
    /// Everything that would keep the lead from being sent, by field.
    pub errors: Vec<FieldError>,
    /// The plugin's word, such as `delivered`, with code and message where it gave them.
    pub outcome: Option<(&'static str, Option<String>, Option<String>)>,
}

impl Previewed {
    fn error(mut self, pointer: impl Into<String>, code: &'static str, detail: impl Into<String>) -> Self {
        self.errors.push(FieldError::new(pointer, code, detail));
        self
    }
}

/// Runs the credential's plugin over the lead. `None`: the credential is gone.
pub(super) async fn run(
    deps: &Deps,
    engine: &crate::plugin::engine::Engine,
    id: CredentialId,
    preview: Preview,
) -> Result<Option<Previewed>, StoreError> {
    let ready = match ready::prepare(deps, id).await? {
        Prepared::Ready(ready) => ready,
        Prepared::Parked { state, .. } => return Ok(Some(Previewed::default().error("", parked(&state.code), state.message))),
        Prepared::Gone => return Ok(None),
    };
    let now = deps.clock.now();
    let mut found = Previewed::default();
    let data = convert::template_data(&preview.lead, &ready, now);
    let (fields, errors) = convert::mapped(preview.mapping.as_ref().unwrap_or(&ready.credential.mapping), &data);
    found.fields = fields;
    found.errors = errors
        .into_iter()
        .map(|(name, why)| FieldError::new(format!("/mapping/{}", pointer_step(&name)), "mapping_invalid", why))
        .collect();
    match passes(preview.filter.as_ref(), &ready, &data) {
        Ok(Passed::Yes) => {}
        Ok(Passed::No(why)) => {
            let why = convert::filtered(why);
            found.outcome = Some(("skipped", Some(why.code), Some(why.message)));
            return Ok(Some(found));
        }
        Err(why) => found = found.error("/filter", "filter_invalid", why),
    }
    if !found.errors.is_empty() {
        return Ok(Some(found));
    }
    Ok(Some(call(deps, engine, &ready, &preview, found).await))
}

async fn call(deps: &Deps, engine: &crate::plugin::engine::Engine, ready: &Ready, preview: &Preview, mut found: Previewed) -> Previewed {
    let kv = Kv { store: deps.store.clone(), clock: deps.clock.clone(), credential: ready.credential.id };
    let effects = Arc::new(PreviewEffects { kv, verdict: Mutex::default() });
    let delivery = DeliveryId::new(deps.clock.now()).to_string();
    let env = match ready.env(deps, effects.clone(), format!("preview:{delivery}"), preview.settings.as_ref(), true) {
        Ok(env) => env,
        Err(why) => return found.error("/settings", "config_invalid", why.message),
    };
    let fields = Value::Object(found.fields.clone()).to_string();
    let report = call::deliver(engine, &ready.plugin.inspected, env, vec![convert::first_item(delivery, &preview.lead, fields)]).await;
    found.requests = report.rehearsed;
    let verdict = lock(&effects.verdict).take();
    found.outcome = Some(match (verdict, report.end) {
        (Some(Verdict::Delivered(_)), _) => ("delivered", None, None),
        (Some(Verdict::Duplicate(_)), _) => ("duplicate", None, None),
        (Some(Verdict::Skipped(why)), _) => ("skipped", Some(why.code), Some(why.message)),
        (Some(Verdict::Retry { why, .. }), _) => ("retry", Some(why.code), Some(why.message)),
        (Some(Verdict::Rejected(why)), _) => ("rejected", Some(why.code), Some(why.message)),
        (None, CallEnd::Stopped(stop)) => {
            let (why, _) = retry::stopped(&stop);
            ("stopped", Some(why.code), Some(why.message))
        }
        (None, CallEnd::Failed(why)) => ("failed", Some(why.code), Some(why.message)),
        (None, CallEnd::Returned) => {
            ("failed", Some("not_settled".into()), Some("the plugin returned without saying what became of this lead".into()))
        }
    });
    found
}

fn passes(filter: Option<&Option<String>>, ready: &Ready, data: &Map<String, Value>) -> Result<Passed, String> {
    match filter {
        Some(Some(source)) => Filter::new(source)?.passes(data),
        Some(None) => Ok(Passed::Yes),
        None => ready.filter.as_ref().map_or(Ok(Passed::Yes), |filter| filter.passes(data)),
    }
}

fn parked(code: &str) -> &'static str {
    if code == "plugin_missing" { "plugin_missing" } else { "config_invalid" }
}

/// The plugin's small state can be read; what it writes is forgotten.
struct PreviewEffects {
    kv: Kv,
    verdict: Mutex<Option<Verdict>>,
}

#[async_trait]
impl Effects for PreviewEffects {
    fn settle(&self, _item: usize, verdict: Verdict, _exchanges: Vec<Exchange>) {
        *lock(&self.verdict) = Some(verdict);
    }

    async fn checkpoint(&self, _item: usize, _memo: String) -> bool {
        true
    }

    async fn kv_get(&self, key: &str) -> Result<Option<(Vec<u8>, u64)>, KvFailure> {
        self.kv.get(key).await
    }

    async fn kv_set(&self, _key: &str, _value: Vec<u8>, _ttl: Option<Duration>, _expected: Option<Option<u64>>) -> Result<bool, KvFailure> {
        Ok(true)
    }

    async fn kv_delete(&self, _key: &str) -> Result<(), KvFailure> {
        Ok(())
    }
}
