//! What belongs to PostgreSQL, not to the contract: how it is opened, poolers, connections that die, many who write at once, weeks.

use leadwire_tests::postgres::{Pooler, execute};
use sqlx::Row;

use super::*;

async fn open(url: &str) -> Result<PostgresStore, StoreError> {
    PostgresStore::open(url, PostgresOptions::default()).await
}

fn words(result: Result<PostgresStore, StoreError>) -> String {
    result.err().expect("refused").to_string()
}

#[tokio::test]
async fn what_cannot_be_opened_is_refused_in_words() {
    let database = Database::bare().await;
    let url = database.url();
    let named = |name: &str| url.replace(database.name(), name);
    assert!(words(open(&named("nowhere")).await).contains("no such database"));
    assert!(words(open(&url.replace("user=leadwire", "user=nobody")).await).contains("refuses the user"));
    let unreachable = words(open("postgres://u:hidden@127.0.0.1:1/d").await);
    assert!(unreachable.contains("unavailable") && !unreachable.contains("hidden"), "{unreachable}");

    let mut admin = database.connect().await;
    execute(&mut admin, "revoke create on schema public from public".to_owned()).await;
    execute(&mut admin, format!("create role poor_{} login", database.name())).await;
    let poor = url.replace("user=leadwire", &format!("user=poor_{}", database.name()));
    let refused = words(open(&poor).await);
    assert!(refused.contains("lacks rights") && refused.contains("leadwire migrate"), "{refused}");

    // The owner makes the tables; then the other one may serve with no more rights than it needs.
    open(&url).await.unwrap().close().await;
    execute(&mut admin, format!("grant select, insert, update, delete on all tables in schema public to poor_{}", database.name())).await;
    let serving = open(&poor).await.unwrap();
    serving.ping().await.unwrap();
    send(&serving, &lanes(1), at(0)).await;
    serving.close().await;

    execute(
        &mut admin,
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time) values (9999, 'x', true, '', 0)".to_owned(),
    )
    .await;
    assert!(words(open(&url).await).contains("written by a newer leadwire"));
    execute(&mut admin, format!("create database latin_{} template template0 encoding 'LATIN1' locale 'C'", database.name())).await;
    assert!(words(open(&named(&format!("latin_{}", database.name()))).await).contains("encoding is LATIN1"));
}

#[tokio::test]
async fn the_connection_is_encrypted_as_the_url_says() {
    let database = Database::new().await;
    for (mode, encrypted) in [("disable", false), ("prefer", true), ("require", true), ("verify-ca", true), ("verify-full", true)] {
        let store = open(&format!("{}&application_name={mode}", database.encrypted_url("localhost", mode))).await.unwrap();
        store.ping().await.unwrap();
        let sql = "select bool_and(ssl) from pg_stat_ssl join pg_stat_activity using (pid)
                    where datname = current_database() and application_name = $1";
        let all: bool = sqlx::query(sql).bind(mode).fetch_one(&mut database.connect().await).await.unwrap().get(0);
        assert_eq!(all, encrypted, "{mode}");
        store.close().await;
    }
    let elsewhere = words(open(&database.encrypted_url("127.0.0.1", "verify-full")).await);
    assert!(elsewhere.contains("certificate not valid for name"), "{elsewhere}");
    let other_roots = database.encrypted_url("localhost", "verify-ca");
    let other_roots = other_roots.split("&sslrootcert").next().unwrap();
    assert!(words(open(other_roots).await).contains("invalid peer certificate"));
}

#[tokio::test]
async fn nodes_that_start_together_make_the_schema_once() {
    let database = Database::bare().await;
    let mut opening = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let url = database.url();
        opening.spawn(async move { open(&url).await.unwrap().ping().await.unwrap() });
    }
    opening.join_all().await;
}

#[tokio::test]
async fn a_closed_store_says_so_and_leaves_no_connection() {
    let database = Database::new().await;
    let store = open(&database.url()).await.unwrap();
    let (lead, ..) = send(&store, &lanes(1), at(0)).await;
    store.close().await;
    assert!(matches!(store.ping().await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.accept(intake(project_id(), &[], at(0))).await, Err(StoreError::Unavailable(_))));
    assert!(open(&database.url()).await.unwrap().lead(lead).await.unwrap().is_some());
}

#[tokio::test]
async fn connections_that_died_are_replaced_and_nobody_hears_of_it() {
    let database = Database::new().await;
    let store = open(&database.url()).await.unwrap();
    let lanes = lanes(2);
    let mut admin = database.connect().await;
    for round in 0..3 {
        let (lead, ..) = send(&store, &lanes, at(round)).await;
        let leased = lease(&store, &lanes, at(round)).await;
        let sql =
            "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()";
        let killed: i64 = sqlx::query(sql).fetch_one(&mut admin).await.unwrap().get(0);
        assert!(killed > 0);
        assert!(store.lead(lead).await.unwrap().is_some());
        for one in leased {
            assert!(finish_one(&store, one.job, end(DeliveryStatus::Delivered), at(round)).await.is_some());
        }
        assert_eq!(lead_state(&store, lead).await, LeadStatus::Completed);
        store.ping().await.unwrap();
    }
    assert_eq!(store.backlog(), 0);
}

#[tokio::test]
async fn a_database_that_takes_no_writes_is_not_ready_until_it_does() {
    let database = Database::new().await;
    let store = open(&database.url()).await.unwrap();
    let mut admin = database.connect().await;
    let read_only = async |admin: &mut sqlx::PgConnection, on: bool| {
        execute(admin, format!("alter database {} set default_transaction_read_only = {on}", database.name())).await;
        execute(admin, "set default_transaction_read_only = off".to_owned()).await;
        let sql = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()";
        execute(admin, sql.to_owned()).await;
    };
    store.ping().await.unwrap();
    read_only(&mut admin, true).await;
    let refused = store.accept(intake(project_id(), &lanes(1), at(0))).await;
    assert!(matches!(&refused, Err(StoreError::Unavailable(why)) if why.contains("takes no writes")), "{refused:?}");
    assert!(matches!(store.ping().await, Err(StoreError::Unavailable(_))));
    read_only(&mut admin, false).await;
    send(&store, &lanes(1), at(0)).await;
    store.ping().await.unwrap();
}

/// What remote sides and plugins say may hold anything.
#[tokio::test]
async fn texts_with_the_character_nul_are_taken() {
    let database = Database::new().await;
    let store = open(&database.url()).await.unwrap();
    let lanes = lanes(1);
    let mut one = intake(project_id(), &lanes, at(0));
    (one.lead.external_id, one.lead.entity) = (Some("a\0b".to_owned()), Some("\0".to_owned()));
    one.lead.emails = vec!["a\0@example.com".to_owned()];
    let lead = one.lead.clone();
    accept(&store, one).await;
    searchable(&store).await;
    assert_eq!(store.lead_by_external_id(lead.project, "a\0b").await.unwrap().unwrap().lead, lead);
    let by_contact = ListQuery { contacts: vec![vec!["ea\0@example.com".to_owned()]], limit: 5, ..ListQuery::default() };
    assert_eq!(store.lead_ids(&by_contact).await.unwrap().items, [lead.id]);
    let leased = lease_one(&store, lanes[0], at(0)).await;
    assert!(store.checkpoint(leased.job, "no\0te").await.unwrap());
    let last = Some(("co\0de".to_owned(), "te\0xt".to_owned()));
    let mut finished = Finish { last, ..finish(leased.job, again(at(5), 1), at(1)) };
    finished.attempts[0].message = Some("\0".to_owned());
    assert!(store.finish(vec![finished]).await.unwrap()[0].is_some());
    let leased = lease_one(&store, lanes[0], at(5)).await;
    assert_eq!(leased.memo.as_deref(), Some("no\0te"), "a plugin finds what it noted");
    store.kv_write(kv(lanes[0], "k\0", b"\0", 0)).await.unwrap();
    assert_eq!(store.kv_get(lanes[0], "k\0", at(0)).await.unwrap().unwrap().value, b"\0");
}

#[tokio::test]
async fn history_lies_in_weeks_and_what_is_of_none_is_taken_too() {
    let database = Database::new().await;
    let store = open(&database.url()).await.unwrap();
    assert_eq!(store.make_partitions().await.unwrap(), 0, "made when it was opened");
    let mut admin = database.connect().await;
    let now: i64 = sqlx::query("select (extract(epoch from now()) * 1000)::bigint").fetch_one(&mut admin).await.unwrap().get(0);
    let (this_week, later, long_ago) = (now, now + 14 * 86_400_000, 1_000_000_000_000);
    let far_ahead = now + 60 * 86_400_000;
    for ms in [this_week, later, long_ago, far_ahead] {
        send(&store, &lanes(2), Timestamp::from_millis(ms)).await;
    }
    for table in ["leads", "batches", "deliveries"] {
        let sql = format!(
            "select count(*) filter (where tableoid = '{table}_default'::regclass), count(distinct tableoid), count(*) from {table}"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_one(&mut admin).await.unwrap();
        let (default, tables, all): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
        assert_eq!((default * 2, tables), (all, 3), "{table}");
    }
    // A clock that was wrong for a while: the week cannot be made over the rows that it left, and all goes on without it.
    let sql = "select relname from pg_class where relkind = 'r' and relname like 'leads\\_2%' order by relname desc limit 1";
    let newest: String = sqlx::query(sql).fetch_one(&mut admin).await.unwrap().get(0);
    execute(&mut admin, format!("with gone as (delete from {newest} returning *) select 1; drop table {newest}")).await;
    send(&store, &lanes(1), Timestamp::from_millis(later)).await;
    assert_eq!(store.make_partitions().await.unwrap(), 0);
    send(&store, &lanes(1), Timestamp::from_millis(later)).await;
}

struct Pooled {
    pooler: Pooler,
    /// Kept for as long as the pooler leads to it.
    _database: Database,
}

#[async_trait]
impl Backend for Pooled {
    async fn open(&self, max_backlog: u64) -> Arc<dyn Store> {
        let options = PostgresOptions { max_backlog, ..PostgresOptions::default() };
        Arc::new(PostgresStore::open(self.pooler.url(), options).await.unwrap())
    }
}

macro_rules! through_a_pooler {
    ($($behaviour:ident),+ $(,)?) => {
        /// Each in a database of its own.
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn what_holds_without_a_pooler_holds_through_one_in_transaction_mode() {
            $({
                let database = Database::new().await;
                let pooler = Pooler::of(&database).await;
                super::$behaviour(&Pooled { pooler, _database: database }).await;
            })+
        }
    };
}

through_a_pooler!(
    an_accepted_lead_is_there_with_all_it_promised,
    equal_leads_that_arrive_together_are_stored_once,
    the_same_request_gets_the_same_answer_and_writes_nothing,
    a_panicking_or_impossible_request_harms_no_neighbour,
    concurrent_leasers_never_get_the_same_job,
    a_delivery_is_retried_and_then_delivered_with_every_attempt_on_record,
    a_batch_ends_once_whoever_comes_last,
    counters_agree_with_deliveries_after_any_operations,
    lists_show_each_row_once_however_much_is_written_meanwhile,
    deleting_a_credential_cancels_what_waits_for_it,
    only_one_swap_of_a_version_succeeds,
    pruning_removes_what_has_expired_in_slices,
);

#[tokio::test]
async fn a_pooler_finds_the_schema_missing_and_has_it_made() {
    let database = Database::bare().await;
    let pooler = Pooler::of(&database).await;
    let store = open(pooler.url()).await.unwrap();
    send(&store, &lanes(1), at(0)).await;
    // Told so, nothing is tried first; a server that is spoken to directly does not mind either.
    let direct = open(&format!("{}&pgbouncer=true", database.url())).await.unwrap();
    assert_eq!(direct.backlog(), 1);
    direct.ping().await.unwrap();
}

/// What the writers of the test below share.
struct Field {
    project: ProjectId,
    lanes: Vec<CredentialId>,
    batches: Vec<BatchId>,
    deliveries: Vec<DeliveryId>,
    leads: Vec<Lead>,
}

/// One of many who do everything at once to the same rows.
async fn writer(store: Arc<PostgresStore>, field: Arc<tokio::sync::Mutex<Field>>, seed: u64) {
    let mut dice = Dice(seed);
    let project = field.lock().await.project;
    let lanes = field.lock().await.lanes.clone();
    let some = |all: &[DeliveryId], dice: &mut Dice| (0..6).map(|_| all[dice.roll(all.len())]).collect::<Vec<_>>();
    for step in 0..60_i64 {
        let now = at(step * 20_000);
        let (batches, deliveries, leads) = {
            let field = field.lock().await;
            (field.batches.clone(), field.deliveries.clone(), field.leads.clone())
        };
        match dice.roll(9) {
            0 | 1 => {
                let mut sent = intake(project, &lanes[..1 + dice.roll(4)], now);
                if dice.roll(3) == 0 {
                    sent.lead = leads[dice.roll(leads.len())].clone();
                }
                sent.options.allow_failures = dice.roll(2) == 0;
                sent.options.notify = vec![NoticeKind::Failed, NoticeKind::Partial, NoticeKind::Completed];
                sent.extras.deadline_at = (dice.roll(2) == 0).then(|| now.plus(Duration::from_secs(30)));
                sent.dedup = Some(DedupKey { hash: [dice.roll(40) as u8; 32], expires_at: now.plus(Duration::from_secs(1)) });
                let (batch, lead) = (sent.batch, sent.lead.clone());
                let ids: Vec<_> = sent.deliveries.iter().map(|one| one.id).collect();
                if let Written::New(Accepted::New) = store.accept(sent).await.unwrap() {
                    let mut field = field.lock().await;
                    field.batches.push(batch);
                    field.deliveries.extend(ids);
                    field.leads.push(lead);
                }
            }
            2..=4 => {
                let quotas: Vec<_> = lanes.iter().map(|lane| LaneQuota { lane: *lane, limit: 5 }).collect();
                let leased = store.lease(&quotas, now, now.plus(Duration::from_secs(25))).await.unwrap();
                let jobs: Vec<_> = leased.iter().map(|one| one.job).collect();
                store.extend_lease(&jobs, now.plus(Duration::from_secs(26))).await.unwrap();
                let finished = jobs.iter().map(|job| match dice.roll(4) {
                    0 => finish(*job, again(now, 1), now),
                    1 => finish(*job, end(DeliveryStatus::Failed), now),
                    _ => finish(*job, end(DeliveryStatus::Delivered), now),
                });
                store.finish(finished.collect()).await.unwrap();
            }
            5 => drop(store.cancel_batch(batches[dice.roll(batches.len())], now).await.unwrap()),
            6 => drop(store.fire_timers(now, 10).await.unwrap()),
            7 => drop(store.retry_delivery(deliveries[dice.roll(deliveries.len())], now).await.unwrap()),
            _ => {
                let ids = some(&deliveries, &mut dice);
                let task = Task {
                    id: TaskId::new(now),
                    project: None,
                    kind: TaskKind::DeliveriesRetry,
                    status: TaskStatus::Running,
                    asked: json!({}),
                    rate: 7,
                    progress: TaskProgress::default(),
                    cursor: None,
                    correlation: String::new(),
                    created_at: now,
                    finished_at: None,
                };
                store.create_task(&task, None).await.unwrap();
                let work = if dice.roll(2) == 0 { SliceWork::Retry(ids) } else { SliceWork::Cancel(ids) };
                let slice = Slice { task: task.id, from: None, to: None, work, looked_at: 6, errors: Vec::new(), now };
                store.do_slice(slice).await.unwrap();
            }
        }
    }
}

/// Two nodes, many writers, the same rows: everything adds up, and nobody ever waited in a circle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_write_the_same_rows_at_once_never_wait_in_a_circle() {
    let database = Database::new().await;
    let nodes = [Arc::new(open(&database.url()).await.unwrap()), Arc::new(open(&database.url()).await.unwrap())];
    let mut shop = project("shop");
    shop.sending.notifications = vec![NotificationRule {
        name: "all".to_owned(),
        on: vec![NoticeKind::Failed, NoticeKind::Partial, NoticeKind::Completed],
        credential: lanes(1)[0],
        channel: "telegram".to_owned(),
        settings: None,
        template: None,
        quiet_sec: 60,
    }];
    nodes[0].create_project(&shop, None).await.unwrap();
    let first = intake(shop.id, &lanes(4), at(0));
    let lanes = first.deliveries.iter().map(|one| one.credential_id).collect();
    let field = Field {
        project: shop.id,
        lanes,
        batches: vec![first.batch],
        deliveries: first.deliveries.iter().map(|one| one.id).collect(),
        leads: vec![first.lead.clone()],
    };
    accept(&*nodes[0], first).await;
    let field = Arc::new(tokio::sync::Mutex::new(field));
    let mut writers = tokio::task::JoinSet::new();
    for n in 1..=8_u64 {
        writers.spawn(writer(nodes[n as usize % 2].clone(), field.clone(), n * 0x9e37_79b9));
    }
    writers.join_all().await;

    let field = field.lock().await;
    let mut jobs = 0;
    for id in &field.batches {
        let batch = nodes[0].batch(*id).await.unwrap().unwrap();
        let mut counted = BatchCounts::default();
        for delivery in nodes[0].deliveries_of_batch(*id).await.unwrap() {
            assert_eq!(delivery.due_at.is_some(), !delivery.status.is_terminal());
            jobs += u64::from(!delivery.status.is_terminal());
            if delivery.kind == DeliveryKind::Lead {
                counted.total += 1;
                *counted.of(delivery.status) += 1;
            }
        }
        assert_eq!((batch.counts, batch.status), (counted, batch_status(&counted)));
    }
    for lead in &field.leads {
        let newest = nodes[0].batches_of_lead(lead.id).await.unwrap();
        // Two sends of one lead may be made in one order and written in the other.
        let states: Vec<_> = newest.iter().map(|batch| lead_status(&batch.counts)).collect();
        assert!(states.contains(&lead_state(&*nodes[0], lead.id).await), "{states:?}");
    }
    for node in &nodes {
        node.close().await;
    }
    let reopened = open(&database.url()).await.unwrap();
    assert_eq!(reopened.backlog(), jobs);
    let sql = "select deadlocks from pg_stat_database where datname = current_database()";
    let deadlocks: i64 = sqlx::query(sql).fetch_one(&mut database.connect().await).await.unwrap().get(0);
    assert_eq!(deadlocks, 0);
}

/// So many rows that reading all of them is never the cheapest way to a few.
const SEED: &str = "
create function id_of(n bigint) returns uuid language sql as
    $$ select (lpad(to_hex(1767225600000 + n * 1000), 12, '0') || '70008000' || lpad(to_hex(n), 12, '0'))::uuid $$;
insert into leads select id_of(n), p, id_of(n), case when n % 3 = 0 then 'landing' end, case when n % 7 = 0 then 'form-' || n end,
       case when n % 50 = 0 then 'failed' else 'completed' end, 1767225600000 + n * 1000, '{}'
  from generate_series(1, 30000) n, lateral (select id_of(n % 3) p) x;
insert into batches (id, lead_id, project_id, total, pending, delivered, status, options, correlation, created_at)
select id, id, project_id, 1, 0, 1, 'completed', '{}', '', created_at from leads;
insert into deliveries (id, batch_id, lead_id, project_id, credential_id, position, channel, status, created_at)
select id, id, id, project_id, id_of(created_at / 1000 % 5), 0, 'channel-' || created_at / 1000 % 4,
       case when created_at / 1000 % 50 = 0 then 'failed' else 'delivered' end, created_at from leads;
insert into jobs (id, lane_id, due_at, was_due, batch_id, lead_id, correlation, channel)
select id, credential_id, 0, 0, batch_id, lead_id, '', channel from deliveries;
insert into lead_contacts select 'p' || n % 9000, id_of(n) from generate_series(1, 30000) n;
insert into lead_words select id_of(n % 3), w, id_of(n) from generate_series(1, 30000) n, unnest(array['all', 'few' || n % 900]) w;
analyze";

#[tokio::test]
async fn no_list_reads_a_whole_table() {
    let database = Database::new().await;
    let store = open(&database.url()).await.unwrap();
    execute(&mut database.connect().await, SEED.to_owned()).await;
    let id = |n: u128| uuid::Uuid::from_u128((1_767_225_600_000 + n * 1_000) << 80 | 0x7000_8000 << 48 | n);
    let statuses = [None, Some("completed"), Some("failed"), Some("delivered"), Some("queued"), Some("processing"), Some("pending")];
    let time = Some(at(20_000_000));
    for status in statuses {
        for bits in 0..1u32 << 8 {
            let has = |bit: u32| bits & (1 << bit) != 0;
            let query = ListQuery {
                project: has(0).then(|| ProjectId::from_uuid(id(1))),
                status: status.map(str::to_owned),
                channel: has(1).then(|| "channel-1".to_owned()),
                credential: has(2).then(|| CredentialId::from_uuid(id(1))),
                entity: has(3).then(|| "landing".to_owned()),
                external_id: has(4).then(|| "form-700".to_owned()),
                contacts: if has(5) { vec![vec!["p1".to_owned(), "p2".to_owned()], vec!["p3".to_owned()]] } else { vec![] },
                words: if has(6) { vec!["all".to_owned(), "few7".to_owned()] } else { vec![] },
                created_after: time.filter(|_| has(7)),
                created_before: time.filter(|_| has(7)).map(|time| time.plus(Duration::from_secs(5_000))),
                before: None,
                limit: 50,
            };
            for (list, plan) in store.plans(&query).await.unwrap() {
                let whole = |step: &String| {
                    ["Seq Scan on leads", "Seq Scan on batches", "Seq Scan on deliveries", "Seq Scan on jobs", "Seq Scan on lead_"]
                        .iter()
                        .any(|scan| step.contains(scan))
                };
                // The tables of weeks that are still empty are read as a whole, and are nothing.
                let bad = plan.iter().filter(|step| whole(step)).find(|step| step.contains("_default") || !step.contains("_20"));
                assert_eq!(bad, None, "{list} {query:?}\n{plan:#?}");
            }
        }
    }
}
