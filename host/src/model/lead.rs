//! The lead as stored: already checked and normalised.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{LeadId, ProjectId, Timestamp};

/// A telephone number as the client wrote it and, where it could be understood, in E.164.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Phone {
    /// As sent.
    pub raw: String,
    /// `+` and up to 15 digits; absent when the number could not be understood in the project's region.
    pub e164: Option<String>,
}

/// An exact amount: `minor` = amount × 10^`exponent`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Money {
    /// The amount in units of 10^-`exponent`.
    pub minor: i64,
    /// Digits after the decimal point as the client sent them.
    pub exponent: u8,
    /// ISO 4217 code, upper case.
    pub currency: String,
}

/// Where the lead came from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Origin {
    /// Address of the page with the form.
    #[schema(max_length = 2_048)]
    pub page: Option<String>,
    /// Address of the page before it.
    #[schema(max_length = 2_048)]
    pub referrer: Option<String>,
    /// The form's name.
    #[schema(max_length = 2_048)]
    pub form: Option<String>,
    /// The visitor's IP address.
    #[schema(max_length = 2_048)]
    pub ip: Option<String>,
    /// The visitor's browser.
    #[schema(max_length = 2_048)]
    pub user_agent: Option<String>,
    #[allow(missing_docs)]
    #[schema(max_length = 2_048)]
    pub utm_source: Option<String>,
    #[allow(missing_docs)]
    #[schema(max_length = 2_048)]
    pub utm_medium: Option<String>,
    #[allow(missing_docs)]
    #[schema(max_length = 2_048)]
    pub utm_campaign: Option<String>,
    #[allow(missing_docs)]
    #[schema(max_length = 2_048)]
    pub utm_term: Option<String>,
    #[allow(missing_docs)]
    #[schema(max_length = 2_048)]
    pub utm_content: Option<String>,
    /// Advertising and analytics ids: `yclid`, `gclid`, `ym_uid` and others, up to 50.
    pub ids: BTreeMap<String, String>,
}

/// A contact or request that entered over the API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lead {
    #[allow(missing_docs)]
    pub id: LeadId,
    #[allow(missing_docs)]
    pub project: ProjectId,
    /// The project's unit (landing page, shop) by the client's own name for it.
    pub entity: Option<String>,
    /// The client's own id of the lead.
    pub external_id: Option<String>,
    #[allow(missing_docs)]
    pub title: Option<String>,
    #[allow(missing_docs)]
    pub name: Option<String>,
    #[allow(missing_docs)]
    pub company: Option<String>,
    #[allow(missing_docs)]
    pub phones: Vec<Phone>,
    /// Trimmed, the domain in lower case.
    pub emails: Vec<String>,
    #[allow(missing_docs)]
    pub comment: Option<String>,
    #[allow(missing_docs)]
    pub value: Option<Money>,
    #[allow(missing_docs)]
    pub origin: Origin,
    /// The client's own fields, as sent.
    pub fields: serde_json::Map<String, serde_json::Value>,
    #[allow(missing_docs)]
    pub created_at: Timestamp,
}

/// A lead with what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct LeadRecord {
    #[allow(missing_docs)]
    pub lead: Lead,
    #[allow(missing_docs)]
    pub status: LeadStatus,
}

/// What became of a lead: the state of its newest batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LeadStatus {
    /// Stored; nothing sent yet.
    Accepted,
    /// Some of its deliveries have ended.
    Processing,
    /// All delivered or skipped.
    Completed,
    /// Some delivered, some not.
    Partial,
    /// None delivered.
    Failed,
    /// No credential wanted it.
    Unrouted,
}
