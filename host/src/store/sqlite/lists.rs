//! Lists of leads, batches and deliveries: a walk along an index ([`Walk`]), and what is asked of each row.

use futures_util::TryStreamExt;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, QueryBuilder, Row, Sqlite, SqliteConnection, SqlitePool};
use uuid::Uuid;

use super::page::{Columns, Room};
use super::read::{BATCH_COLUMNS, DELIVERY, batch_row, delivery_row, lead_record};
use super::walk::{Bound, LOOK, Of, Walk, doc_cursor, matching};
use super::words::Word;
use crate::model::{Batch, BatchStatus, Delivery, DeliveryId, DeliveryStatus, LeadId, LeadRecord, LeadStatus};
use crate::policy::search::project_word;
use crate::store::{Cursor, Found, ListQuery, StoreError};

/// Leads whose batches or deliveries are read together.
const LEADS_AT_ONCE: u32 = 100;
/// How often that is done for one page.
const ROUNDS: usize = 5;
/// How many of these may look at [`LOOK`] rows and find fewer leads than there is room for; then the page is short.
const VAIN_ROUNDS: usize = 2;

/// What is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Leads(Option<LeadStatus>),
    Batches(Option<BatchStatus>),
    Deliveries(Option<DeliveryStatus>),
}

/// A list with its conditions and the way it goes.
pub(super) struct Listing<'q> {
    query: &'q ListQuery,
    kind: Kind,
    walk: Walk,
    bound: Bound,
}

/// The status asked for; `None`: there is no such status, so nothing can match.
fn asked<S: Word>(query: &ListQuery) -> Option<Option<S>> {
    query.status.as_deref().map_or(Some(None), |word| S::parse(word).map(Some))
}

impl<'q> Listing<'q> {
    fn new(query: &'q ListQuery, kind: Kind, bound: Bound) -> Self {
        let mut walk = match kind {
            Kind::Leads(status) => Walk::of_leads(query, status),
            Kind::Batches(status) => Walk::of_batches(query, status),
            Kind::Deliveries(status) => Walk::of_deliveries(query, status),
        };
        if let (Walk::Words(words), Some(project)) = (&mut walk, query.project) {
            words.insert(0, project_word(project));
        }
        Self { query, kind, walk, bound }
    }

    fn of(&self) -> Of {
        match self.kind {
            Kind::Leads(_) => Of::Lead,
            Kind::Batches(_) => Of::Batch,
            Kind::Deliveries(_) => Of::Delivery,
        }
    }

    /// The rows, `columns` of each and its place last.
    fn rows(&self, columns: &str, limit: u32) -> QueryBuilder<Sqlite> {
        let mut sql = QueryBuilder::new("select ");
        sql.push(columns).push(", c.place from (");
        self.walk.push(&mut sql, self.query, self.of(), self.bound);
        sql.push(") c");
        match self.kind {
            // Two walks of one lead have the same row twice only with `union`, which merges them.
            Kind::Leads(status) => {
                if self.walk.by_doc() {
                    sql.push(" cross join lead_docs n on n.doc = c.row cross join leads l on l.id = n.lead_id where true");
                } else {
                    sql.push(" cross join leads l on l.id = c.row where true");
                }
                self.about_lead(&mut sql, status);
            }
            Kind::Batches(status) => {
                sql.push(" cross join batches b on b.id = c.row where true");
                about_batch(&mut sql, self.query, status);
                self.about_its_lead(&mut sql, "b");
                if self.walk.along_deliveries() {
                    sql.push(" and not exists (select 1 from deliveries e where e.batch_id = b.id and e.id < c.place");
                    self.same(&mut sql, "e");
                    sql.push(")");
                }
            }
            Kind::Deliveries(status) => {
                sql.push(" cross join deliveries d on d.id = c.row left join jobs j on j.id = d.id where true");
                about_delivery(&mut sql, self.query, status);
                self.about_its_lead(&mut sql, "d");
            }
        }
        sql.push(format_args!(" limit {}", limit + 1));
        sql
    }

    /// How many candidates one statement looked at, and the place of the last.
    fn end(&self) -> QueryBuilder<Sqlite> {
        let mut sql = QueryBuilder::new("select count(*), min(place) as place from (");
        self.walk.push(&mut sql, self.query, self.of(), self.bound);
        sql.push(") c");
        sql
    }

    /// What makes a delivery `e` one of those that the walk goes along.
    fn same(&self, sql: &mut QueryBuilder<Sqlite>, table: &str) {
        match &self.walk {
            Walk::OfCredential(credential) => drop(sql.push(format_args!(" and +{table}.credential_id = ")).push_bind(credential.uuid())),
            Walk::OfChannel(_, channel) => drop(sql.push(format_args!(" and +{table}.channel = ")).push_bind(channel.clone())),
            _ => {}
        }
    }

    /// Where rows do not come lead by lead, what is asked of their lead is asked of each.
    fn about_its_lead(&self, sql: &mut QueryBuilder<Sqlite>, table: &str) {
        if let Some(entity) = &self.query.entity {
            sql.push(format_args!(" and exists (select 1 from leads l where l.id = {table}.lead_id and +l.entity = "));
            sql.push_bind(entity.clone()).push(")");
        }
    }

    fn about_lead(&self, sql: &mut QueryBuilder<Sqlite>, status: Option<LeadStatus>) {
        let query = self.query;
        common(sql, query, "l");
        if let Some(status) = status {
            sql.push(format_args!(" and +l.status = '{}'", status.word()));
        }
        if let Some(entity) = &query.entity {
            sql.push(" and +l.entity = ").push_bind(entity.clone());
        }
        if let Some(id) = &query.external_id {
            sql.push(" and +l.external_id = ").push_bind(id.clone());
        }
        // The first group is the walk's own.
        for group in query.contacts.iter().skip(1) {
            sql.push(" and exists (select 1 from lead_contacts k where k.lead_id = l.id and k.key in (");
            let mut keys = sql.separated(", ");
            for key in group {
                keys.push_bind(key.clone());
            }
            sql.push("))");
        }
        if !query.words.is_empty() && !self.walk.by_doc() {
            sql.push(" and exists (select 1 from lead_words w where w.lead_words match ").push_bind(matching(&query.words));
            sql.push(" and w.rowid = (select doc from lead_docs where lead_id = l.id))");
        }
        if query.channel.is_some() || query.credential.is_some() {
            sql.push(" and exists (select 1 from batches b cross join deliveries d on d.batch_id = b.id where b.lead_id = l.id");
            sql.push(OF_LEAD);
            about_target(sql, query);
            sql.push(")");
        }
        if self.walk.along_deliveries() {
            // A lead with several such deliveries stands where its first one does, which never moves.
            sql.push(
                " and not exists (select 1 from batches b cross join deliveries e on e.batch_id = b.id
                                   where b.lead_id = l.id and e.id < c.place",
            );
            self.same(sql, "e");
            sql.push(")");
        }
    }

    async fn page<T>(
        &self,
        conn: &mut SqliteConnection,
        columns: Columns,
        limit: u32,
        read: impl Fn(&SqliteRow) -> Result<T, StoreError>,
    ) -> Result<(Vec<(Uuid, T)>, Option<Uuid>), StoreError> {
        let mut items = Vec::new();
        let mut room = Room::new(limit, columns);
        let mut sql = self.rows(columns.sql, limit);
        let mut rows = sql.build().fetch(&mut *conn);
        while let Some(row) = rows.try_next().await? {
            if !room.takes(&row)? {
                let next = items.last().map(|(place, _)| *place);
                return Ok((items, next));
            }
            items.push((self.place(&row)?, read(&row)?));
        }
        drop(rows);
        let end = self.end().build().fetch_one(&mut *conn).await?;
        let more = end.try_get::<i64, _>(0)? >= i64::from(LOOK);
        let next = if more { Some(self.place(&end)?) } else { None };
        Ok((items, next))
    }

    fn place(&self, row: &SqliteRow) -> Result<Uuid, StoreError> {
        if self.walk.by_doc() { Ok(doc_cursor(row.try_get("place")?)) } else { Ok(row.try_get("place")?) }
    }
}

/// Time and project, which every table has. The `+` here and below says that no index is to be chosen for a condition: the
/// walk has chosen.
fn common(sql: &mut QueryBuilder<Sqlite>, query: &ListQuery, table: &str) {
    if let Some(after) = query.created_after {
        sql.push(format_args!(" and +{table}.created_at >= ")).push_bind(after.as_millis());
    }
    if let Some(before) = query.created_before {
        sql.push(format_args!(" and +{table}.created_at < ")).push_bind(before.as_millis());
    }
    if let Some(project) = query.project {
        sql.push(format_args!(" and +{table}.project_id = ")).push_bind(project.uuid());
    }
}

/// Deliveries that bring a lead somewhere, and do not tell of it.
const OF_LEAD: &str = " and +d.kind in ('lead', 'fallback')";

fn about_target(sql: &mut QueryBuilder<Sqlite>, query: &ListQuery) {
    if let Some(channel) = &query.channel {
        sql.push(" and +d.channel = ").push_bind(channel.clone());
    }
    if let Some(credential) = query.credential {
        sql.push(" and +d.credential_id = ").push_bind(credential.uuid());
    }
}

fn about_batch(sql: &mut QueryBuilder<Sqlite>, query: &ListQuery, status: Option<BatchStatus>) {
    common(sql, query, "b");
    if let Some(status) = status {
        sql.push(format_args!(" and +b.status = '{}'", status.word()));
    }
    if query.channel.is_some() || query.credential.is_some() {
        sql.push(" and exists (select 1 from deliveries d where d.batch_id = b.id");
        sql.push(OF_LEAD);
        about_target(sql, query);
        sql.push(")");
    }
}

fn about_delivery(sql: &mut QueryBuilder<Sqlite>, query: &ListQuery, status: Option<DeliveryStatus>) {
    common(sql, query, "d");
    about_target(sql, query);
    match status {
        None => {}
        Some(DeliveryStatus::Queued) => drop(sql.push(" and j.sending = 0")),
        Some(DeliveryStatus::Sending) => drop(sql.push(" and j.sending = 1")),
        Some(ended) => drop(sql.push(format_args!(" and +d.status = '{}'", ended.word()))),
    }
}

/// The most rows of a page.
fn bounded(limit: u32) -> u32 {
    limit.clamp(1, 200)
}

fn bound(query: &ListQuery) -> Bound {
    Bound { at: query.before.map(|cursor| cursor.at), with_it: query.before.is_some_and(|cursor| cursor.within.is_some()) }
}

fn found<T>((items, next): (Vec<(Uuid, T)>, Option<Uuid>)) -> Found<T> {
    Found { items: items.into_iter().map(|(_, item)| item).collect(), next: next.map(Cursor::below) }
}

const LEADS: Columns = Columns { sql: "l.payload, l.status", large: &[0] };
const BATCHES: Columns = Columns { sql: BATCH_COLUMNS, large: &[11] };
/// Refs, settings and events are large.
const DELIVERIES: Columns = Columns { sql: DELIVERY, large: &[11, 13, 17] };

const fn ids(sql: &'static str) -> Columns {
    Columns { sql, large: &[] }
}

pub(super) async fn leads(pool: &SqlitePool, query: &ListQuery) -> Result<Found<LeadRecord>, StoreError> {
    leads_as(pool, query, LEADS, bounded(query.limit), lead_record).await
}

pub(super) async fn lead_ids(pool: &SqlitePool, query: &ListQuery) -> Result<Found<LeadId>, StoreError> {
    leads_as(pool, query, ids("l.id"), query.limit.clamp(1, LOOK), |row| Ok(LeadId::from_uuid(row.try_get(0)?))).await
}

async fn leads_as<T>(
    pool: &SqlitePool,
    query: &ListQuery,
    columns: Columns,
    limit: u32,
    read: impl Fn(&SqliteRow) -> Result<T, StoreError>,
) -> Result<Found<T>, StoreError> {
    let Some(status) = asked::<LeadStatus>(query) else { return Ok(Found::nothing()) };
    // One picture of the database for all statements of a page.
    let mut tx = pool.begin().await?;
    Ok(found(Listing::new(query, Kind::Leads(status), bound(query)).page(&mut tx, columns, limit, read).await?))
}

pub(super) async fn batches(pool: &SqlitePool, query: &ListQuery) -> Result<Found<Batch>, StoreError> {
    let Some(status) = asked::<BatchStatus>(query) else { return Ok(Found::nothing()) };
    let (kind, limit) = (Kind::Batches(status), bounded(query.limit));
    let mut tx = pool.begin().await?;
    if goes_by_lead(query, kind) {
        return by_lead(&mut tx, query, kind, BATCHES, limit, batch_row).await;
    }
    Ok(found(Listing::new(query, kind, bound(query)).page(&mut tx, BATCHES, limit, batch_row).await?))
}

pub(super) async fn deliveries(pool: &SqlitePool, query: &ListQuery) -> Result<Found<Delivery>, StoreError> {
    deliveries_as(pool, query, DELIVERIES, bounded(query.limit), delivery_row).await
}

pub(super) async fn delivery_ids(pool: &SqlitePool, query: &ListQuery) -> Result<Found<DeliveryId>, StoreError> {
    deliveries_as(pool, query, ids("d.id"), query.limit.clamp(1, LOOK), |row| Ok(DeliveryId::from_uuid(row.try_get(0)?))).await
}

async fn deliveries_as<T>(
    pool: &SqlitePool,
    query: &ListQuery,
    columns: Columns,
    limit: u32,
    read: impl Fn(&SqliteRow) -> Result<T, StoreError>,
) -> Result<Found<T>, StoreError> {
    let Some(status) = asked::<DeliveryStatus>(query) else { return Ok(Found::nothing()) };
    let kind = Kind::Deliveries(status);
    let mut tx = pool.begin().await?;
    if goes_by_lead(query, kind) {
        return by_lead(&mut tx, query, kind, columns, limit, read).await;
    }
    Ok(found(Listing::new(query, kind, bound(query)).page(&mut tx, columns, limit, read).await?))
}

/// What of the conditions is about the lead.
fn lead_query(query: &ListQuery) -> ListQuery {
    ListQuery {
        project: query.project,
        entity: query.entity.clone(),
        external_id: query.external_id.clone(),
        contacts: query.contacts.clone(),
        words: query.words.clone(),
        // What hangs on a lead is never older than the lead.
        created_before: query.created_before,
        ..ListQuery::default()
    }
}

/// Whether a list comes lead by lead: its conditions find leads. An entity has many leads, though, and few rows that are
/// under way or ended without success: then those are walked along.
fn goes_by_lead(query: &ListQuery, kind: Kind) -> bool {
    let few = match kind {
        Kind::Leads(_) => return false,
        Kind::Batches(status) => query.project.is_some() && status.is_some_and(|status| status != BatchStatus::Completed),
        Kind::Deliveries(status) => {
            let found = query.project.is_some() || query.credential.is_some();
            found && status.is_some_and(|status| !matches!(status, DeliveryStatus::Delivered | DeliveryStatus::Skipped))
        }
    };
    let only_entity = query.external_id.is_none() && query.contacts.is_empty() && query.words.is_empty();
    query.asks_for_the_lead() && !(few && only_entity)
}

/// Batches or deliveries of the leads that are asked for, lead by lead.
async fn by_lead<T>(
    conn: &mut SqliteConnection,
    query: &ListQuery,
    kind: Kind,
    columns: Columns,
    limit: u32,
    read: impl Fn(&SqliteRow) -> Result<T, StoreError>,
) -> Result<Found<T>, StoreError> {
    let leads_asked = lead_query(query);
    let (mut begin, mut within) = (bound(query), query.before.and_then(|cursor| cursor.within));
    let mut items: Vec<T> = Vec::new();
    let mut room = Room::new(limit, columns);
    let mut last = None;
    let mut vain = 0;
    for _ in 0..ROUNDS {
        let listing = Listing::new(&leads_asked, Kind::Leads(None), begin);
        let read_id = |row: &SqliteRow| Ok(row.try_get::<Uuid, _>(0)?);
        let (leads, next) = listing.page(conn, ids("l.id"), LEADS_AT_ONCE, read_id).await?;
        for (n, id, row) in of_leads(conn, query, kind, columns, leads.iter().map(|(_, id)| *id)).await? {
            let Some((place, _)) = leads.get(n) else { continue };
            if n == 0 && within.is_some_and(|within| id >= within) {
                continue;
            }
            if room.is_full() {
                return Ok(Found { items, next: last });
            }
            let row = if columns.large.is_empty() { row } else { one_sql(kind, columns, id).build().fetch_one(&mut *conn).await? };
            if !room.takes(&row)? {
                return Ok(Found { items, next: last });
            }
            items.push(read(&row)?);
            last = Some(Cursor { at: *place, within: Some(id) });
        }
        let Some(next) = next else { return Ok(Found { items, next: None }) };
        (begin, within) = (Bound { at: Some(next), with_it: false }, None);
        vain += usize::from(leads.len() < LEADS_AT_ONCE as usize);
        if vain == VAIN_ROUNDS {
            break;
        }
    }
    Ok(Found { items, next: begin.at.map(Cursor::below) })
}

/// The rows of these leads that fit: the lead's number, the row's own id, the row; in the order of the leads, newest first.
/// A row that may be large comes without its columns, to be read when there is room for it ([`one_sql`]).
async fn of_leads(
    conn: &mut SqliteConnection,
    query: &ListQuery,
    kind: Kind,
    columns: Columns,
    leads: impl Iterator<Item = Uuid>,
) -> Result<Vec<(usize, Uuid, SqliteRow)>, StoreError> {
    let rows = of_leads_sql(query, kind, columns, leads).build().fetch_all(conn).await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        found.push((row.try_get::<i64, _>("lead_number")? as usize, row.try_get::<Uuid, _>("own_id")?, row));
    }
    found.sort_by_key(|(n, id, _)| (*n, std::cmp::Reverse(*id)));
    Ok(found)
}

fn of_leads_sql(query: &ListQuery, kind: Kind, columns: Columns, leads: impl Iterator<Item = Uuid>) -> QueryBuilder<Sqlite> {
    let (numbers, ids) = packed(leads);
    let own = if matches!(kind, Kind::Deliveries(_)) { "d.id" } else { "b.id" };
    let mut sql = QueryBuilder::new("select ");
    sql.push(if columns.large.is_empty() { columns.sql } else { "null" })
        .push(format_args!(", r.key as lead_number, {own} as own_id from json_each("));
    sql.push_bind(numbers).push(") r cross join batches b on b.lead_id = substr(").push_bind(ids).push(", 16 * r.key + 1, 16)");
    match kind {
        Kind::Deliveries(status) => {
            sql.push(" cross join deliveries d on d.batch_id = b.id left join jobs j on j.id = d.id where true");
            about_delivery(&mut sql, query, status);
        }
        Kind::Batches(status) => {
            sql.push(" where true");
            about_batch(&mut sql, query, status);
        }
        Kind::Leads(_) => {}
    }
    sql
}

/// One batch or delivery.
fn one_sql(kind: Kind, columns: Columns, id: Uuid) -> QueryBuilder<Sqlite> {
    let mut sql = QueryBuilder::new("select ");
    sql.push(columns.sql).push(match kind {
        Kind::Deliveries(_) => " from deliveries d left join jobs j on j.id = d.id where d.id = ",
        _ => " from batches b where b.id = ",
    });
    sql.push_bind(id);
    sql
}

/// Ids as parameters of `json_each($1)` (a number for each) and `substr($2, 16 * key + 1, 16)`.
fn packed(ids: impl Iterator<Item = Uuid>) -> (String, Vec<u8>) {
    let mut packed = Vec::new();
    let mut numbers = String::from("[");
    for id in ids {
        numbers.push_str(if packed.is_empty() { "0" } else { ",0" });
        packed.extend_from_slice(id.as_bytes());
    }
    numbers.push(']');
    (numbers, packed)
}

/// Every statement of the three lists for these conditions, by the list's name.
pub(super) fn statements(query: &ListQuery) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    let mut add = |kind: Kind, columns: Columns| {
        let name = match kind {
            Kind::Leads(_) => "leads",
            Kind::Batches(_) => "batches",
            Kind::Deliveries(_) => "deliveries",
        };
        if goes_by_lead(query, kind) {
            let leads_asked = lead_query(query);
            let listing = Listing::new(&leads_asked, Kind::Leads(None), bound(query));
            let rows = |columns| of_leads_sql(query, kind, columns, [Uuid::nil()].into_iter());
            let own = ids(if matches!(kind, Kind::Deliveries(_)) { "d.id" } else { "b.id" });
            let read = [rows(columns), rows(own), one_sql(kind, columns, Uuid::nil())];
            all.extend([listing.rows("l.id", 50), listing.end()].into_iter().chain(read).map(|sql| (name, sql)));
        } else {
            let listing = Listing::new(query, kind, bound(query));
            all.extend([listing.rows(columns.sql, 50), listing.end()].map(|sql| (name, sql)));
        }
    };
    if let Some(status) = asked(query) {
        add(Kind::Leads(status), LEADS);
    }
    if let Some(status) = asked(query) {
        add(Kind::Batches(status), BATCHES);
    }
    if let Some(status) = asked(query) {
        add(Kind::Deliveries(status), DELIVERIES);
    }
    all.into_iter().map(|(name, sql)| (name, sql.into_string())).collect()
}

/// The plans of those statements, step by step.
pub(super) async fn plans(pool: &SqlitePool, query: &ListQuery) -> Result<Vec<(&'static str, Vec<String>)>, StoreError> {
    let mut all = Vec::new();
    for (name, sql) in statements(query) {
        let plan = sqlx::query(AssertSqlSafe(format!("explain query plan {sql}"))).fetch_all(pool).await?;
        all.push((name, plan.iter().map(|row| row.try_get(3)).collect::<Result<_, _>>()?));
    }
    Ok(all)
}
