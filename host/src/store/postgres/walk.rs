//! Along what a list walks: one index, newest first, chosen by the conditions that narrow most. What the index does not
//! decide is asked of each row it names, and at most [`LOOK`] of them are looked at by one statement: a page may be short,
//! but no list ever reads a whole table.

use sqlx::{Postgres, QueryBuilder};
use uuid::Uuid;

use super::read::plain;
use crate::model::{BatchStatus, CredentialId, DeliveryStatus, LeadStatus, ProjectId, Timestamp};
use crate::store::ListQuery;
use crate::store::sqlite::words::Word;

/// Rows that one statement looks at.
pub(super) const LOOK: u32 = 2_000;

/// The condition of the indexes that hold deliveries which ended without success, word for word.
const DEAD: &str = " and status in ('failed', 'in_doubt', 'cancelled')";

/// An index to walk along. Each yields a row (the key of what is listed) and its place in the order.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Walk {
    /// Leads with one of these contacts.
    Contacts(Vec<String>),
    External(ProjectId, String),
    /// Leads with this word, of a project or of all.
    Word(Option<ProjectId>, String),
    LeadStatus(ProjectId, LeadStatus),
    Entity(ProjectId, String),
    Leads(Option<ProjectId>),
    BatchStatus(ProjectId, BatchStatus),
    Batches(Option<ProjectId>),
    /// Deliveries under way.
    Jobs,
    DeadOfCredential(CredentialId, DeliveryStatus),
    Dead(ProjectId, DeliveryStatus),
    OfCredential(CredentialId),
    OfChannel(ProjectId, String),
    Deliveries(Option<ProjectId>),
}

/// Which column of `deliveries` a walk yields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Lead,
    Batch,
    Delivery,
}

impl Walk {
    /// For leads, or for what hangs on the leads that are asked for.
    pub(super) fn of_leads(query: &ListQuery, status: Option<LeadStatus>) -> Self {
        if let Some(group) = query.contacts.first() {
            return Self::Contacts(group.clone());
        }
        if let Some(word) = query.words.first()
            && (query.external_id.is_none() || query.project.is_none())
        {
            return Self::Word(query.project, word.clone());
        }
        let Some(project) = query.project else {
            return query.credential.map_or(Self::Leads(None), Self::OfCredential);
        };
        match (&query.external_id, status, &query.entity, query.credential, &query.channel) {
            (Some(id), ..) => Self::External(project, id.clone()),
            (_, Some(status), ..) if status != LeadStatus::Completed => Self::LeadStatus(project, status),
            (_, _, Some(entity), ..) => Self::Entity(project, entity.clone()),
            (_, _, _, Some(credential), _) => Self::OfCredential(credential),
            (.., Some(channel)) => Self::OfChannel(project, channel.clone()),
            _ => Self::Leads(Some(project)),
        }
    }

    pub(super) fn of_batches(query: &ListQuery, status: Option<BatchStatus>) -> Self {
        match (query.project, status, query.credential, &query.channel) {
            (Some(project), Some(status), ..) if status != BatchStatus::Completed => Self::BatchStatus(project, status),
            (_, _, Some(credential), _) => Self::OfCredential(credential),
            (Some(project), _, _, Some(channel)) => Self::OfChannel(project, channel.clone()),
            (project, ..) => Self::Batches(project),
        }
    }

    pub(super) fn of_deliveries(query: &ListQuery, status: Option<DeliveryStatus>) -> Self {
        use DeliveryStatus::{Cancelled, Failed, InDoubt};
        let dead = status.filter(|status| matches!(status, Failed | InDoubt | Cancelled));
        match (query.project, status, dead, query.credential, &query.channel) {
            (_, Some(status), ..) if !status.is_terminal() => Self::Jobs,
            (_, _, Some(dead), Some(credential), _) => Self::DeadOfCredential(credential, dead),
            (Some(project), _, Some(dead), ..) => Self::Dead(project, dead),
            (_, _, _, Some(credential), _) => Self::OfCredential(credential),
            (Some(project), _, _, _, Some(channel)) => Self::OfChannel(project, channel.clone()),
            (project, ..) => Self::Deliveries(project),
        }
    }

    /// Whether a lead or batch comes from its deliveries, of one credential or channel.
    pub(super) fn along_deliveries(&self) -> bool {
        matches!(self, Self::OfCredential(_) | Self::OfChannel(..))
    }

    /// Writes the statement of the candidates: columns `item` and `place`, newest first.
    pub(super) fn push(&self, sql: &mut QueryBuilder<Postgres>, query: &ListQuery, of: Of, below: Bound) {
        let window = Window { query, below, by_other: self.along_deliveries() && of != Of::Delivery };
        match self {
            Self::Contacts(keys) => {
                sql.push("select lead_id as item, lead_id as place from (");
                for (n, key) in keys.iter().enumerate() {
                    // Each arm is bounded by itself: together they are sorted.
                    sql.push(if n == 0 { "(" } else { " union (" });
                    sql.push("select lead_id from lead_contacts where key = ").push_bind(plain(key));
                    window.push(sql, "lead_id");
                    sql.push(format_args!(" order by lead_id desc limit {LOOK})"));
                }
                sql.push(") arms");
            }
            Self::Word(Some(project), word) => {
                sql.push("select lead_id as item, lead_id as place from lead_words where project_id = ").push_bind(project.uuid());
                sql.push(" and word = ").push_bind(plain(word));
                window.push(sql, "lead_id");
            }
            Self::Word(None, word) => {
                // From project to project in the index, as many rows of each as the whole may have.
                sql.push(PROJECTS).push("select arm.lead_id as item, arm.lead_id as place from steps cross join lateral (");
                sql.push("select lead_id from lead_words where project_id = steps.project and word = ").push_bind(plain(word));
                window.push(sql, "lead_id");
                sql.push(format_args!(" order by lead_id desc limit {LOOK}) arm"));
            }
            Self::External(project, id) => {
                self.of_project(sql, "leads", *project);
                sql.push(" and external_id = ").push_bind(plain(id));
                window.push(sql, "id");
            }
            Self::LeadStatus(project, status) => {
                self.of_project(sql, "leads", *project);
                // As a literal, so that the index of the open ones serves.
                sql.push(format_args!(" and status = '{}' and status <> 'completed'", status.word()));
                window.push(sql, "id");
            }
            Self::Entity(project, entity) => {
                self.of_project(sql, "leads", *project);
                sql.push(" and entity = ").push_bind(plain(entity));
                window.push(sql, "id");
            }
            Self::BatchStatus(project, status) => {
                self.of_project(sql, "batches", *project);
                sql.push(format_args!(" and status = '{}' and status <> 'completed'", status.word()));
                window.push(sql, "id");
            }
            Self::Leads(project) => whole(sql, "leads", *project, &window),
            Self::Batches(project) => whole(sql, "batches", *project, &window),
            Self::Deliveries(project) => whole(sql, "deliveries", *project, &window),
            Self::Jobs => whole(sql, "jobs", None, &window),
            Self::DeadOfCredential(credential, status) => {
                sql.push("select id as item, id as place from deliveries where credential_id = ").push_bind(credential.uuid());
                sql.push(format_args!(" and status = '{}'{DEAD}", status.word()));
                window.push(sql, "id");
            }
            Self::Dead(project, status) => {
                self.of_project(sql, "deliveries", *project);
                sql.push(format_args!(" and status = '{}'{DEAD}", status.word()));
                window.push(sql, "id");
            }
            Self::OfCredential(credential) => {
                sql.push(format_args!("select {} as item, id as place from deliveries where credential_id = ", of.column()));
                sql.push_bind(credential.uuid());
                window.push(sql, "id");
            }
            Self::OfChannel(project, channel) => {
                sql.push(format_args!("select {} as item, id as place from deliveries where project_id = ", of.column()));
                sql.push_bind(project.uuid()).push(" and channel = ").push_bind(plain(channel));
                window.push(sql, "id");
            }
        }
        sql.push(format_args!(" order by place desc limit {LOOK}"));
    }

    fn of_project(&self, sql: &mut QueryBuilder<Postgres>, table: &str, project: ProjectId) {
        sql.push(format_args!("select id as item, id as place from {table} where project_id = ")).push_bind(project.uuid());
    }
}

fn whole(sql: &mut QueryBuilder<Postgres>, table: &str, project: Option<ProjectId>, window: &Window<'_>) {
    sql.push(format_args!("select id as item, id as place from {table} where "));
    match project {
        Some(project) => drop(sql.push("project_id = ").push_bind(project.uuid())),
        None => drop(sql.push("true")),
    }
    window.push(sql, "id");
}

/// The projects that have words, one look into the index for each.
const PROJECTS: &str = "
with recursive steps (project) as (
    (select project_id from lead_words order by project_id limit 1)
    union all
    select next.project_id
      from steps cross join lateral (select project_id from lead_words where project_id > steps.project order by project_id limit 1) next) ";

/// Bounds of the places.
struct Window<'q> {
    query: &'q ListQuery,
    below: Bound,
    /// A lead from before the time may have been sent again after it: then its delivery's id says nothing about that.
    by_other: bool,
}

impl Window<'_> {
    /// Ids carry the time, so a time filter bounds them too; a day of slack covers whatever lies between making an id and
    /// noting the time.
    fn push(&self, sql: &mut QueryBuilder<Postgres>, column: &str) {
        let (mut operator, mut at) = self.below.of_ids();
        if let Some(before) = self.query.created_before.filter(|_| !self.by_other) {
            let bound = id_at(before.as_millis().saturating_add(SLACK_MS));
            if bound < at {
                (operator, at) = ("<", bound);
            }
        }
        sql.push(format_args!(" and {column} {operator} ")).push_bind(at);
        if let Some(after) = self.query.created_after {
            sql.push(format_args!(" and {column} >= ")).push_bind(id_at(after.as_millis().saturating_sub(SLACK_MS)));
        }
    }
}

impl Of {
    fn column(self) -> &'static str {
        match self {
            Self::Lead => "lead_id",
            Self::Batch => "batch_id",
            Self::Delivery => "id",
        }
    }
}

/// Where a walk begins.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bound {
    pub(super) at: Option<Uuid>,
    /// The row at `at` comes too.
    pub(super) with_it: bool,
}

impl Bound {
    fn of_ids(self) -> (&'static str, Uuid) {
        (if self.with_it { "<=" } else { "<" }, self.at.unwrap_or(Uuid::max()))
    }
}

const SLACK_MS: i64 = 86_400_000;

/// The time that a UUIDv7 carries.
pub(super) fn time_of(id: Uuid) -> Timestamp {
    let (seconds, nanos) = id.get_timestamp().map_or((0, 0), |at| at.to_unix());
    Timestamp::from_millis(i64::try_from(seconds).unwrap_or(i64::MAX / 2_000) * 1_000 + i64::from(nanos / 1_000_000))
}

/// The smallest UUIDv7 of a time.
pub(super) fn id_at(millis: i64) -> Uuid {
    let millis = millis.clamp(0, (1 << 48) - 1) as u128;
    Uuid::from_u128(millis << 80)
}
