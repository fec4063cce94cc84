//! Along what a list walks: one index, newest first, chosen by the conditions that narrow most. What the index does not
//! decide is asked of each row it names, and at most [`LOOK`] of them are looked at by one statement: a page may be short,
//! but no list ever reads a whole table.

use sqlx::{QueryBuilder, Sqlite};
use uuid::Uuid;

use super::words::Word;
use crate::model::{BatchStatus, CredentialId, DeliveryStatus, LeadStatus, ProjectId, Timestamp};
use crate::store::ListQuery;

/// Rows that one statement looks at. Each costs up to some 15 µs where it is found by its words and its lead is read: a page
/// may look at so many twice, and be there within 50 ms.
pub(super) const LOOK: u32 = 1_000;

/// The condition of the indexes that hold deliveries which ended without success, word for word.
const DEAD: &str = " and status in ('failed', 'in_doubt', 'cancelled')";

/// An index to walk along. Each yields a row (the key of what is listed) and its place in the order.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Walk {
    /// Leads with one of these contacts.
    Contacts(Vec<String>),
    External(ProjectId, String),
    /// Leads with all of these words; the place is the number of the lead in the index of words.
    Words(Vec<String>),
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
        if !query.words.is_empty() && (query.external_id.is_none() || query.project.is_none()) {
            return Self::Words(query.words.clone());
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

    /// Whether places are numbers in the index of words, and not ids.
    pub(super) fn by_doc(&self) -> bool {
        matches!(self, Self::Words(_))
    }

    /// The column by which a lead or batch that comes from its deliveries is recognised, when this walks along deliveries
    /// of one credential or channel.
    pub(super) fn along_deliveries(&self) -> bool {
        matches!(self, Self::OfCredential(_) | Self::OfChannel(..))
    }

    /// Writes the statement of the candidates: columns `row` and `place`.
    pub(super) fn push(&self, sql: &mut QueryBuilder<Sqlite>, query: &ListQuery, of: Of, below: Bound) {
        match self {
            Self::Contacts(keys) => {
                for (n, key) in keys.iter().enumerate() {
                    // Each arm comes in order, so that they are merged and not sorted.
                    sql.push(if n == 0 { "" } else { " union " });
                    sql.push("select lead_id as row, lead_id as place from lead_contacts where key = ").push_bind(key.clone());
                    self.window(sql, query, of, below, "lead_id");
                }
            }
            Self::Words(words) => {
                sql.push("select rowid as row, rowid as place from lead_words where lead_words match ").push_bind(matching(words));
                doc_window(sql, query, below);
            }
            Self::External(project, id) => {
                sql.push("select id as row, id as place from leads where project_id = ").push_bind(project.uuid());
                sql.push(" and external_id = ").push_bind(id.clone());
                self.window(sql, query, of, below, "id");
            }
            Self::LeadStatus(project, status) => {
                sql.push("select id as row, id as place from leads where project_id = ").push_bind(project.uuid());
                // As a literal, so that the index of the open ones serves.
                sql.push(format_args!(" and status = '{}' and status <> 'completed'", status.word()));
                self.window(sql, query, of, below, "id");
            }
            Self::Entity(project, entity) => {
                sql.push("select id as row, id as place from leads where project_id = ").push_bind(project.uuid());
                sql.push(" and entity = ").push_bind(entity.clone());
                self.window(sql, query, of, below, "id");
            }
            Self::BatchStatus(project, status) => {
                sql.push("select id as row, id as place from batches where project_id = ").push_bind(project.uuid());
                sql.push(format_args!(" and status = '{}' and status <> 'completed'", status.word()));
                self.window(sql, query, of, below, "id");
            }
            Self::Leads(project) => self.push_whole(sql, "leads", *project, query, of, below),
            Self::Batches(project) => self.push_whole(sql, "batches", *project, query, of, below),
            Self::Deliveries(project) => self.push_whole(sql, "deliveries", *project, query, of, below),
            Self::Jobs => self.push_whole(sql, "jobs", None, query, of, below),
            Self::DeadOfCredential(credential, status) => {
                sql.push("select id as row, id as place from deliveries where credential_id = ").push_bind(credential.uuid());
                sql.push(format_args!(" and status = '{}'{DEAD}", status.word()));
                self.window(sql, query, of, below, "id");
            }
            Self::Dead(project, status) => {
                sql.push("select id as row, id as place from deliveries where project_id = ").push_bind(project.uuid());
                sql.push(format_args!(" and status = '{}'{DEAD}", status.word()));
                self.window(sql, query, of, below, "id");
            }
            Self::OfCredential(credential) => {
                sql.push(format_args!("select {} as row, id as place from deliveries where credential_id = ", of.column()));
                sql.push_bind(credential.uuid());
                self.window(sql, query, of, below, "id");
            }
            Self::OfChannel(project, channel) => {
                sql.push(format_args!("select {} as row, id as place from deliveries where project_id = ", of.column()));
                sql.push_bind(project.uuid()).push(" and channel = ").push_bind(channel.clone());
                self.window(sql, query, of, below, "id");
            }
        }
        sql.push(format_args!(" order by place desc limit {LOOK}"));
    }

    fn push_whole(&self, sql: &mut QueryBuilder<Sqlite>, table: &str, project: Option<ProjectId>, query: &ListQuery, of: Of, below: Bound) {
        sql.push(format_args!("select id as row, id as place from {table} where "));
        match project {
            Some(project) => drop(sql.push("project_id = ").push_bind(project.uuid())),
            None => drop(sql.push("true")),
        }
        self.window(sql, query, of, below, "id");
    }

    /// Bounds of the places. Ids carry the time, so a time filter bounds them too; a day of slack covers whatever lies
    /// between making an id and noting the time.
    fn window(&self, sql: &mut QueryBuilder<Sqlite>, query: &ListQuery, of: Of, below: Bound, column: &str) {
        let (operator, mut at) = below.of_ids();
        let mut operator = operator;
        // A lead from before the time may have been sent again after it: then its delivery's id says nothing about that.
        let by_other = self.along_deliveries() && of != Of::Delivery;
        if let Some(before) = query.created_before.filter(|_| !by_other) {
            let bound = id_at(before.as_millis().saturating_add(SLACK_MS));
            if bound < at {
                (operator, at) = ("<", bound);
            }
        }
        sql.push(format_args!(" and {column} {operator} ")).push_bind(at);
        if let Some(after) = query.created_after {
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

/// Numbers grow with the ids of their leads, so times bound them as well.
fn doc_window(sql: &mut QueryBuilder<Sqlite>, query: &ListQuery, below: Bound) {
    let at = below.at.map_or(i64::MAX, doc);
    sql.push(format_args!(" and rowid {} ", if below.with_it { "<=" } else { "<" })).push_bind(at);
    if let Some(before) = query.created_before {
        let id = id_at(before.as_millis().saturating_add(SLACK_MS));
        sql.push(" and rowid <= (select doc from lead_docs where lead_id < ").push_bind(id).push(" order by lead_id desc limit 1)");
    }
    if let Some(after) = query.created_after {
        let id = id_at(after.as_millis().saturating_sub(SLACK_MS));
        sql.push(" and rowid >= (select doc from lead_docs where lead_id >= ").push_bind(id).push(" order by lead_id limit 1)");
    }
}

/// The number of a lead in the index of words, as it stands in a cursor.
pub(super) fn doc(at: Uuid) -> i64 {
    i64::try_from(at.as_u128()).unwrap_or(i64::MAX)
}

/// And back.
pub(super) fn doc_cursor(doc: i64) -> Uuid {
    Uuid::from_u128(doc.max(0) as u128)
}

/// All of these words: they consist of letters and digits only.
pub(super) fn matching(words: &[String]) -> String {
    words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" AND ")
}
