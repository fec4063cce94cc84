//! Speed to lead: how long from accepted to delivered, by channel and credential, and what waits longest.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};

use super::answer::Answer;
use super::auth::{Caller, find_project};
use super::error::ApiError;
use super::input::Params;
use crate::app::App;
use crate::model::{CredentialId, Scope, Timestamp};
use crate::policy::speed::Percentiles;

/// Deliveries that one answer looks at.
const LOOKED_AT: u32 = 10_000;
const USUAL: Duration = Duration::from_secs(86_400);

/// Which deliveries.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Window {
    /// Made from this time on; a day before `created_before` without it.
    #[param(value_type = Option<String>, format = DateTime)]
    pub created_after: Option<Timestamp>,
    /// Made before this time; now without it.
    #[param(value_type = Option<String>, format = DateTime)]
    pub created_before: Option<Timestamp>,
}

/// How fast leads of a project arrive.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct SpeedView {
    /// From accepted to delivered, an asked-for delay included.
    pub channels: Vec<ChannelSpeed>,
    #[allow(missing_docs)]
    pub credentials: Vec<CredentialSpeed>,
    /// `true`: only the newest 10,000 deliveries of the time were looked at.
    pub sampled: bool,
    /// The lead that waits longest, if one is among the 10,000 oldest that wait.
    pub oldest_undelivered: Option<Oldest>,
}

/// Of one channel.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[allow(missing_docs)]
pub struct ChannelSpeed {
    pub channel: String,
    pub delivered: usize,
    /// Of these, after a fallback had stood in.
    pub late: usize,
    #[serde(flatten)]
    pub took: Percentiles,
}

/// Of one credential.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[allow(missing_docs)]
pub struct CredentialSpeed {
    pub credential_id: String,
    pub name: String,
    #[serde(flatten)]
    pub speed: ChannelSpeed,
}

/// A lead that waits.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[allow(missing_docs)]
pub struct Oldest {
    pub delivery_id: String,
    pub lead_id: String,
    pub channel: String,
    pub credential_id: String,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    pub age_sec: u64,
}

#[derive(Default)]
struct Gathered {
    took: Vec<u64>,
    late: usize,
}

impl Gathered {
    fn speed(self, channel: String) -> ChannelSpeed {
        ChannelSpeed { channel, delivered: self.took.len(), late: self.late, took: Percentiles::of(self.took) }
    }
}

/// Speed to lead
///
/// By channel and credential, for credentials that an admin made.
#[utoipa::path(get, path = "/api/projects/{id}/speed", tag = "Administration",
    params(("id" = String, Path, description = "`prj_…`, or `ext:` and your own id"), Window), responses((status = 200, body = SpeedView)))]
pub async fn show(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    Params(window): Params<Window>,
) -> Result<Answer, ApiError> {
    caller.require(Scope::LeadsRead)?;
    let project = find_project(&app, &caller, &id).await?.ok_or_else(|| ApiError::not_found("project"))?;
    let now = app.now();
    // The end is excluded, and what was made in this very millisecond counts.
    let before = window.created_before.unwrap_or(now.plus(Duration::from_millis(1)));
    let usual = Timestamp::from_millis(before.as_millis().saturating_sub(i64::try_from(USUAL.as_millis()).unwrap_or(i64::MAX)));
    let found = app.store.speed(project.id, window.created_after.unwrap_or(usual), before, LOOKED_AT).await?;
    let credentials = app.credentials(project.id).await?;
    let (mut channels, mut each) = (BTreeMap::<&str, Gathered>::new(), BTreeMap::<CredentialId, Gathered>::new());
    for arrival in &found.delivered {
        let Some(credential) = credentials.iter().find(|credential| credential.id == arrival.credential) else { continue };
        for gathered in [channels.entry(&credential.channel).or_default(), each.entry(credential.id).or_default()] {
            gathered.took.push(arrival.ms);
            gathered.late += usize::from(arrival.late);
        }
    }
    let by_credential = credentials.iter().filter_map(|credential| {
        let speed = each.remove(&credential.id)?.speed(credential.channel.clone());
        Some(CredentialSpeed { credential_id: credential.id.to_string(), name: credential.name.clone(), speed })
    });
    let oldest = match found.oldest {
        Some(id) => app.store.delivery(id).await?,
        None => None,
    };
    Answer::ok(&SpeedView {
        credentials: by_credential.collect(),
        channels: channels.into_iter().map(|(channel, gathered)| gathered.speed(channel.to_owned())).collect(),
        sampled: found.has_more,
        oldest_undelivered: oldest.map(|delivery| Oldest {
            delivery_id: delivery.id.to_string(),
            lead_id: delivery.lead_id.to_string(),
            channel: delivery.channel,
            credential_id: delivery.credential_id.to_string(),
            created_at: delivery.created_at,
            age_sec: now.since(delivery.created_at).as_secs(),
        }),
    })
}
