//! No statement on the hot path and no list reads a whole table.

use sqlx::sqlite::SqlitePoolOptions;
use sqlx::{AssertSqlSafe, Row, SqlitePool};

use super::{
    accept, admin, answers, audit, book, credentials, ended, erasures, events, extras, finish, gone, kv, lease, lists, notices, open,
    prune, queues, read, search, sending, settle, speed, tasks, timers,
};
use crate::model::{CredentialId, ProjectId, Timestamp};
use crate::store::{Cursor, ListQuery};

/// What a plan may scan: parameters, what is computed from them, subqueries that have a limit, and the candidates of a list,
/// which are counted.
fn is_bounded(step: &str) -> bool {
    let bounded = ["SCAN r VIRTUAL TABLE", "SCAN steps", "SCAN oldest", "SCAN CONSTANT ROW", "SCAN (subquery"];
    // In the index of words: `M` is the expression that matches, `=` one row.
    let words =
        |step: &str| ["SCAN lead_words VIRTUAL", "SCAN w VIRTUAL", "SCAN w EXISTS VIRTUAL"].iter().any(|table| step.starts_with(table));
    !step.starts_with("SCAN")
        || step == "SCAN c"
        || bounded.iter().any(|ok| step.starts_with(ok))
        || (words(step) && (step.contains('M') || step.ends_with(":=")))
}

async fn check(pool: &SqlitePool, sql: &str) {
    for statement in sql.split(';') {
        let plan = sqlx::query(AssertSqlSafe(format!("explain query plan {statement}"))).fetch_all(pool).await.unwrap();
        let steps: Vec<String> = plan.iter().map(|row| row.get(3)).collect();
        assert!(steps.iter().all(|step| is_bounded(step)), "{statement}\n{steps:#?}");
        assert!(!steps.iter().any(|step| step.contains("AUTOMATIC")), "{statement}\n{steps:#?}");
        // Candidates are looked at one after the other, only until the page is full.
        assert!(!steps.iter().any(|step| step.starts_with("MATERIALIZE")), "{statement}\n{steps:#?}");
        // A list comes out of its index in order.
        let sorts = statement.contains(" limit ") && statement.contains("order by");
        assert!(!(sorts && steps.iter().any(|step| step.contains("TEMP B-TREE"))), "{statement}\n{steps:#?}");
    }
}

#[tokio::test]
async fn no_statement_reads_a_whole_table() {
    let pool = SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await.unwrap();
    open::MIGRATIONS.run(&pool).await.unwrap();
    let groups = [
        accept::HOT,
        answers::HOT,
        book::HOT,
        settle::HOT,
        finish::HOT,
        lease::HOT,
        kv::HOT,
        &kv::PRUNE,
        read::READS,
        admin::READS,
        audit::ALL,
        credentials::ALL,
        search::HOT,
        tasks::ALL,
        ended::HOT,
        extras::HOT,
        timers::HOT,
        notices::HOT,
        sending::READS,
        speed::READS,
        gone::ALL,
        prune::ALL,
        erasures::ALL,
        events::ALL,
    ];
    for sql in groups.into_iter().flatten() {
        check(&pool, sql).await;
    }
    for sql in [lease::LANES, queues::LANES, queues::OLDEST_LEAD] {
        check(&pool, sql).await;
    }
    for query in questions() {
        for (_, sql) in lists::statements(&query) {
            check(&pool, &sql).await;
            check_inner(&pool, &sql).await;
        }
    }
}

/// What hangs on a row of a walk is found by the row's own keys. (`b`, `d`, `e`, `l` are such tables; a walk's has no alias.)
async fn check_inner(pool: &SqlitePool, sql: &str) {
    let own = ["sqlite_autoindex_leads_1", "PRIMARY KEY", "batches_lead", "deliveries_batch"];
    let plan = sqlx::query(AssertSqlSafe(format!("explain query plan {sql}"))).fetch_all(pool).await.unwrap();
    for step in plan.iter().map(|row| row.get::<String, _>(3)) {
        let inner = ["b", "d", "e", "l"].iter().any(|table| step.starts_with(&format!("SEARCH {table} ")));
        assert!(!inner || own.iter().any(|index| step.contains(index)), "{sql}\n{step}");
    }
}

/// Every combination of conditions that a list can be asked for.
fn questions() -> Vec<ListQuery> {
    let statuses = ["completed", "delivered", "failed", "processing", "queued", "cancelled", "partial", "pending"];
    let time = Some(Timestamp::from_millis(1_000_000_000_000));
    let mut all = Vec::new();
    for status in std::iter::once(None).chain(statuses.map(Some)) {
        // One bit for each other condition.
        for bits in 0..1u32 << 8 {
            let has = |bit: u32| bits & (1 << bit) != 0;
            let text = |bit: u32| has(bit).then(|| "x".to_owned());
            all.push(ListQuery {
                project: has(0).then(|| ProjectId::new(Timestamp::from_millis(0))),
                status: status.map(str::to_owned),
                channel: text(1),
                credential: has(2).then(|| CredentialId::new(Timestamp::from_millis(0))),
                entity: text(3),
                external_id: text(4),
                contacts: if has(5) { vec![vec!["p1".to_owned(), "p2".to_owned()], vec!["ex".to_owned()]] } else { vec![] },
                words: text(6).into_iter().collect(),
                created_after: time.filter(|_| has(7)),
                created_before: time.filter(|_| has(7)),
                before: has(7).then(|| Cursor::below(uuid::Uuid::max())),
                limit: 50,
            });
        }
    }
    all
}
