//! Lists of leads, batches and deliveries: a walk along an index ([`Walk`]), and what is asked of each row.
//!
//! The order in which tables are joined is ours: a lateral subquery with `offset 0` is done for each row before it and is not taken
//! apart, so that candidates are looked at one after the other, only until the page is full. A page is first found (ids, and how
//! large the rows are), then read.

use std::collections::HashMap;

use sqlx::postgres::PgRow;
use sqlx::{Postgres, QueryBuilder, Row};
use uuid::Uuid;

use super::error::Fail;
use super::page::Room;
use super::pool::Conn;
use super::read::{BATCHES, DELIVERIES, batch_row, delivery_row, lead_record, plain};
use super::walk::{Bound, LOOK, Of, Walk};
use crate::model::{Batch, BatchStatus, Delivery, DeliveryId, DeliveryStatus, LeadId, LeadRecord, LeadStatus};
use crate::store::sqlite::words::Word;
use crate::store::{Cursor, Found, ListQuery};

/// Leads whose batches or deliveries are read together.
const LEADS_AT_ONCE: u32 = 100;
/// How often that is done for one page.
const ROUNDS: usize = 5;

/// What is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Leads(Option<LeadStatus>),
    Batches(Option<BatchStatus>),
    Deliveries(Option<DeliveryStatus>),
}

/// A row that fits, before it is read.
struct Hit {
    place: Uuid,
    id: Uuid,
    bytes: i64,
}

/// Bytes of the columns that may be long texts.
const LEAD_BYTES: &str = "octet_length(l.payload)::bigint";
const BATCH_BYTES: &str = "octet_length(b.options)::bigint";
const DELIVERY_BYTES: &str =
    "(coalesce(octet_length(d.refs), 0) + coalesce(octet_length(d.settings), 0) + coalesce(octet_length(d.event), 0))::bigint";
const NO_BYTES: &str = "0::bigint";

/// A list with its conditions and the way it goes.
struct Listing<'q> {
    query: &'q ListQuery,
    kind: Kind,
    walk: Walk,
    bound: Bound,
    /// How its statements begin.
    verb: &'static str,
}

const SELECT: &str = "select";
const EXPLAIN: &str = "explain select";

/// The status asked for; `None`: there is no such status, so nothing can match.
fn asked<S: Word>(query: &ListQuery) -> Option<Option<S>> {
    query.status.as_deref().map_or(Some(None), |word| S::parse(word).map(Some))
}

impl<'q> Listing<'q> {
    fn new(query: &'q ListQuery, kind: Kind, bound: Bound) -> Self {
        let walk = match kind {
            Kind::Leads(status) => Walk::of_leads(query, status),
            Kind::Batches(status) => Walk::of_batches(query, status),
            Kind::Deliveries(status) => Walk::of_deliveries(query, status),
        };
        Self { query, kind, walk, bound, verb: SELECT }
    }

    fn of(&self) -> Of {
        match self.kind {
            Kind::Leads(_) => Of::Lead,
            Kind::Batches(_) => Of::Batch,
            Kind::Deliveries(_) => Of::Delivery,
        }
    }

    /// The rows: id, bytes, place.
    fn rows(&self, bytes: &str, limit: u32) -> QueryBuilder<Postgres> {
        let table = match self.kind {
            Kind::Leads(_) => "l",
            Kind::Batches(_) => "b",
            Kind::Deliveries(_) => "d",
        };
        let mut sql = QueryBuilder::new(format!("{} {table}.id, {bytes}, c.place from (", self.verb));
        self.walk.push(&mut sql, self.query, self.of(), self.bound);
        sql.push(") c");
        match self.kind {
            Kind::Leads(status) => {
                sql.push(" cross join lateral (select * from leads where id = c.item offset 0) l where true");
                self.about_lead(&mut sql, status);
            }
            Kind::Batches(status) => {
                sql.push(" cross join lateral (select * from batches where id = c.item offset 0) b where true");
                about_batch(&mut sql, self.query, status);
                self.about_its_lead(&mut sql, "b");
                if self.walk.along_deliveries() {
                    sql.push(" and not exists (select 1 from deliveries e where e.batch_id = b.id and e.id < c.place");
                    self.same(&mut sql, "e");
                    sql.push(" offset 0)");
                }
            }
            Kind::Deliveries(status) => {
                sql.push(" cross join lateral (select * from deliveries where id = c.item offset 0) d");
                sql.push(" left join lateral (select sending from jobs where id = c.item offset 0) j on true where true");
                about_delivery(&mut sql, self.query, status);
                self.about_its_lead(&mut sql, "d");
            }
        }
        sql.push(format_args!(" order by c.place desc limit {}", limit + 1));
        sql
    }

    /// How many candidates one statement looked at, and the place of the last.
    fn end(&self) -> QueryBuilder<Postgres> {
        let mut sql = QueryBuilder::new(format!("{} count(*), (array_agg(place order by place))[1] from (", self.verb));
        self.walk.push(&mut sql, self.query, self.of(), self.bound);
        sql.push(") c");
        sql
    }

    /// What makes a delivery `e` one of those that the walk goes along.
    fn same(&self, sql: &mut QueryBuilder<Postgres>, table: &str) {
        match &self.walk {
            Walk::OfCredential(credential) => drop(sql.push(format_args!(" and {table}.credential_id = ")).push_bind(credential.uuid())),
            Walk::OfChannel(_, channel) => drop(sql.push(format_args!(" and {table}.channel = ")).push_bind(plain(channel))),
            _ => {}
        }
    }

    /// Where rows do not come lead by lead, what is asked of their lead is asked of each.
    fn about_its_lead(&self, sql: &mut QueryBuilder<Postgres>, table: &str) {
        if let Some(entity) = &self.query.entity {
            sql.push(format_args!(" and exists (select 1 from leads l where l.id = {table}.lead_id and l.entity = "));
            sql.push_bind(plain(entity)).push(" offset 0)");
        }
    }

    fn about_lead(&self, sql: &mut QueryBuilder<Postgres>, status: Option<LeadStatus>) {
        let query = self.query;
        common(sql, query, "l");
        if let Some(status) = status {
            sql.push(format_args!(" and l.status = '{}'", status.word()));
        }
        if let Some(entity) = &query.entity {
            sql.push(" and l.entity = ").push_bind(plain(entity));
        }
        if let Some(id) = &query.external_id {
            sql.push(" and l.external_id = ").push_bind(plain(id));
        }
        // The first group is the walk's own.
        for group in query.contacts.iter().skip(1) {
            let keys: Vec<String> = group.iter().map(|key| plain(key)).collect();
            sql.push(" and exists (select 1 from lead_contacts k where k.lead_id = l.id and k.key = any(").push_bind(keys);
            sql.push(") offset 0)");
        }
        for word in &query.words {
            if !matches!(&self.walk, Walk::Word(_, walked) if walked == word) {
                sql.push(" and exists (select 1 from lead_words w where w.project_id = l.project_id and w.lead_id = l.id and w.word = ");
                sql.push_bind(plain(word)).push(" offset 0)");
            }
        }
        if query.channel.is_some() || query.credential.is_some() {
            sql.push(" and exists (select 1 from batches b cross join lateral (select * from deliveries where batch_id = b.id offset 0) d");
            sql.push(" where b.lead_id = l.id");
            sql.push(OF_LEAD);
            about_target(sql, query);
            sql.push(" offset 0)");
        }
        if self.walk.along_deliveries() {
            // A lead with several such deliveries stands where its first one does, which never moves.
            sql.push(
                " and not exists (select 1 from batches b cross join lateral (select * from deliveries where batch_id = b.id offset 0) e",
            );
            sql.push(" where b.lead_id = l.id and e.id < c.place");
            self.same(sql, "e");
            sql.push(" offset 0)");
        }
    }

    /// The rows that go on a page, and where the list goes on.
    async fn page(&self, conn: &mut Conn, bytes: &str, limit: u32) -> Result<(Vec<Hit>, Option<Uuid>), Fail> {
        let mut hits: Vec<Hit> = Vec::new();
        let mut room = Room::new(limit);
        let mut sql = self.rows(bytes, limit);
        for row in conn.all(sql.build()).await? {
            let hit = Hit { id: row.try_get(0)?, bytes: row.try_get(1)?, place: row.try_get(2)? };
            if !room.takes(hit.bytes) {
                let next = hits.last().map(|hit| hit.place);
                return Ok((hits, next));
            }
            hits.push(hit);
        }
        let end = conn.one(self.end().build()).await?;
        let more = end.try_get::<i64, _>(0)? >= i64::from(LOOK);
        let next = if more { end.try_get(1)? } else { None };
        Ok((hits, next))
    }
}

/// Time and project, which every table has.
fn common(sql: &mut QueryBuilder<Postgres>, query: &ListQuery, table: &str) {
    if let Some(after) = query.created_after {
        sql.push(format_args!(" and {table}.created_at >= ")).push_bind(after.as_millis());
    }
    if let Some(before) = query.created_before {
        sql.push(format_args!(" and {table}.created_at < ")).push_bind(before.as_millis());
    }
    if let Some(project) = query.project {
        sql.push(format_args!(" and {table}.project_id = ")).push_bind(project.uuid());
    }
}

/// Deliveries that bring a lead somewhere, and do not tell of it.
const OF_LEAD: &str = " and d.kind in ('lead', 'fallback')";

fn about_target(sql: &mut QueryBuilder<Postgres>, query: &ListQuery) {
    if let Some(channel) = &query.channel {
        sql.push(" and d.channel = ").push_bind(plain(channel));
    }
    if let Some(credential) = query.credential {
        sql.push(" and d.credential_id = ").push_bind(credential.uuid());
    }
}

fn about_batch(sql: &mut QueryBuilder<Postgres>, query: &ListQuery, status: Option<BatchStatus>) {
    common(sql, query, "b");
    if let Some(status) = status {
        sql.push(format_args!(" and b.status = '{}'", status.word()));
    }
    if query.channel.is_some() || query.credential.is_some() {
        sql.push(" and exists (select 1 from deliveries d where d.batch_id = b.id");
        sql.push(OF_LEAD);
        about_target(sql, query);
        sql.push(" offset 0)");
    }
}

fn about_delivery(sql: &mut QueryBuilder<Postgres>, query: &ListQuery, status: Option<DeliveryStatus>) {
    common(sql, query, "d");
    about_target(sql, query);
    match status {
        None => {}
        Some(DeliveryStatus::Queued) => drop(sql.push(" and not j.sending")),
        Some(DeliveryStatus::Sending) => drop(sql.push(" and j.sending")),
        Some(ended) => drop(sql.push(format_args!(" and d.status = '{}'", ended.word()))),
    }
}

/// The most rows of a page.
fn bounded(limit: u32) -> u32 {
    limit.clamp(1, 200)
}

fn bound(query: &ListQuery) -> Bound {
    Bound { at: query.before.map(|cursor| cursor.at), with_it: query.before.is_some_and(|cursor| cursor.within.is_some()) }
}

pub(super) async fn leads(conn: &mut Conn, query: &ListQuery) -> Result<Found<LeadRecord>, Fail> {
    let Some(status) = asked::<LeadStatus>(query) else { return Ok(Found::nothing()) };
    let listing = Listing::new(query, Kind::Leads(status), bound(query));
    let (hits, next) = listing.page(conn, LEAD_BYTES, bounded(query.limit)).await?;
    let ids: Vec<Uuid> = hits.iter().map(|hit| hit.id).collect();
    let items = read(conn, "select l.payload, l.status, l.id from leads l where l.id = any($1)", 2, &ids, lead_record).await?;
    Ok(Found { items, next: next.map(Cursor::below) })
}

pub(super) async fn lead_ids(conn: &mut Conn, query: &ListQuery) -> Result<Found<LeadId>, Fail> {
    let Some(status) = asked::<LeadStatus>(query) else { return Ok(Found::nothing()) };
    let listing = Listing::new(query, Kind::Leads(status), bound(query));
    let (hits, next) = listing.page(conn, NO_BYTES, query.limit.clamp(1, LOOK)).await?;
    Ok(Found { items: hits.iter().map(|hit| LeadId::from_uuid(hit.id)).collect(), next: next.map(Cursor::below) })
}

pub(super) async fn batches(conn: &mut Conn, query: &ListQuery) -> Result<Found<Batch>, Fail> {
    let Some(status) = asked::<BatchStatus>(query) else { return Ok(Found::nothing()) };
    let (ids, next) = find(conn, query, Kind::Batches(status), BATCH_BYTES, bounded(query.limit)).await?;
    Ok(Found { items: read(conn, BATCHES, 0, &ids, batch_row).await?, next })
}

pub(super) async fn deliveries(conn: &mut Conn, query: &ListQuery) -> Result<Found<Delivery>, Fail> {
    let Some(status) = asked::<DeliveryStatus>(query) else { return Ok(Found::nothing()) };
    let (ids, next) = find(conn, query, Kind::Deliveries(status), DELIVERY_BYTES, bounded(query.limit)).await?;
    Ok(Found { items: read(conn, DELIVERIES, 0, &ids, delivery_row).await?, next })
}

pub(super) async fn delivery_ids(conn: &mut Conn, query: &ListQuery) -> Result<Found<DeliveryId>, Fail> {
    let Some(status) = asked::<DeliveryStatus>(query) else { return Ok(Found::nothing()) };
    let (ids, next) = find(conn, query, Kind::Deliveries(status), NO_BYTES, query.limit.clamp(1, LOOK)).await?;
    Ok(Found { items: ids.into_iter().map(DeliveryId::from_uuid).collect(), next })
}

/// The rows of these ids, in their order; `id` is the column that has it.
async fn read<T>(
    conn: &mut Conn,
    sql: &'static str,
    id: usize,
    ids: &[Uuid],
    row: impl Fn(&PgRow) -> Result<T, Fail>,
) -> Result<Vec<T>, Fail> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = conn.all(sqlx::query(sql).bind(ids.to_vec())).await?;
    let mut by_id = HashMap::with_capacity(rows.len());
    for one in &rows {
        by_id.insert(one.try_get::<Uuid, _>(id)?, row(one)?);
    }
    Ok(ids.iter().filter_map(|id| by_id.remove(id)).collect())
}

/// Batches or deliveries.
async fn find(conn: &mut Conn, query: &ListQuery, kind: Kind, bytes: &str, limit: u32) -> Result<(Vec<Uuid>, Option<Cursor>), Fail> {
    if goes_by_lead(query, kind) {
        return by_lead(conn, query, kind, bytes, limit).await;
    }
    let (hits, next) = Listing::new(query, kind, bound(query)).page(conn, bytes, limit).await?;
    Ok((hits.iter().map(|hit| hit.id).collect(), next.map(Cursor::below)))
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
async fn by_lead(conn: &mut Conn, query: &ListQuery, kind: Kind, bytes: &str, limit: u32) -> Result<(Vec<Uuid>, Option<Cursor>), Fail> {
    let leads_asked = lead_query(query);
    let (mut begin, mut within) = (bound(query), query.before.and_then(|cursor| cursor.within));
    let mut ids = Vec::new();
    let mut room = Room::new(limit);
    let mut last = None;
    for _ in 0..ROUNDS {
        let listing = Listing::new(&leads_asked, Kind::Leads(None), begin);
        let (leads, next) = listing.page(conn, NO_BYTES, LEADS_AT_ONCE).await?;
        for (n, hit) in of_leads(conn, query, kind, bytes, &leads).await? {
            if n == 0 && within.is_some_and(|within| hit.id >= within) {
                continue;
            }
            if !room.takes(hit.bytes) {
                return Ok((ids, last));
            }
            ids.push(hit.id);
            last = Some(Cursor { at: hit.place, within: Some(hit.id) });
        }
        let Some(next) = next else { return Ok((ids, None)) };
        (begin, within) = (Bound { at: Some(next), with_it: false }, None);
    }
    Ok((ids, begin.at.map(Cursor::below)))
}

/// The rows of these leads that fit, with the lead's number: in the order of the leads, newest first.
async fn of_leads(conn: &mut Conn, query: &ListQuery, kind: Kind, bytes: &str, leads: &[Hit]) -> Result<Vec<(usize, Hit)>, Fail> {
    let ids = leads.iter().map(|hit| hit.id).collect();
    let mut found = Vec::new();
    for row in conn.all(of_leads_sql(SELECT, query, kind, bytes, ids).build()).await? {
        let no = usize::try_from(row.try_get::<i64, _>(2)?).unwrap_or(0).saturating_sub(1);
        let Some(lead) = leads.get(no) else { continue };
        found.push((no, Hit { place: lead.place, id: row.try_get(0)?, bytes: row.try_get(1)? }));
    }
    found.sort_by_key(|(no, hit)| (*no, std::cmp::Reverse(hit.id)));
    Ok(found)
}

fn of_leads_sql(verb: &str, query: &ListQuery, kind: Kind, bytes: &str, leads: Vec<Uuid>) -> QueryBuilder<Postgres> {
    let own = if matches!(kind, Kind::Deliveries(_)) { "d.id" } else { "b.id" };
    let mut sql = QueryBuilder::new(format!("{verb} {own}, {bytes}, r.no from unnest("));
    sql.push_bind(leads);
    sql.push("::uuid[]) with ordinality as r (id, no) cross join lateral (select * from batches where lead_id = r.id offset 0) b");
    match kind {
        Kind::Deliveries(status) => {
            sql.push(" cross join lateral (select * from deliveries where batch_id = b.id offset 0) d");
            sql.push(" left join lateral (select sending from jobs where id = d.id offset 0) j on true where true");
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

/// How the database would answer the three lists with these conditions: the list's name, the plan of one statement.
pub(super) async fn plans(conn: &mut Conn, query: &ListQuery) -> Result<Vec<(&'static str, Vec<String>)>, Fail> {
    let kinds = [
        ("leads", asked(query).map(Kind::Leads), LEAD_BYTES),
        ("batches", asked(query).map(Kind::Batches), BATCH_BYTES),
        ("deliveries", asked(query).map(Kind::Deliveries), DELIVERY_BYTES),
    ];
    let mut all = Vec::new();
    for (name, kind, bytes) in kinds {
        let Some(kind) = kind else { continue };
        let (lead_query, by_lead) = (lead_query(query), goes_by_lead(query, kind));
        let (query, walked, bytes_of) = if by_lead { (&lead_query, Kind::Leads(None), NO_BYTES) } else { (query, kind, bytes) };
        let listing = Listing { verb: EXPLAIN, ..Listing::new(query, walked, bound(query)) };
        let mut statements = vec![listing.rows(bytes_of, 50), listing.end()];
        if by_lead {
            statements.push(of_leads_sql(EXPLAIN, query, kind, bytes, vec![Uuid::nil()]));
        }
        for mut sql in statements {
            let rows = conn.all(sql.build()).await?;
            all.push((name, rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?));
        }
    }
    Ok(all)
}
