//! No statement on the hot path and no list reads a whole table.

use sqlx::sqlite::SqlitePoolOptions;
use sqlx::{AssertSqlSafe, Row, SqlitePool};

use super::{
    accept, admin, answers, book, credentials, ended, extras, finish, kv, lease, notices, open, read, sending, settle, speed, timers,
};
use crate::model::{ProjectId, Timestamp};
use crate::store::ListQuery;

/// What a plan may scan: parameters, what is computed from them, and subqueries that have a limit.
fn is_bounded(step: &str) -> bool {
    !step.starts_with("SCAN")
        || ["SCAN r VIRTUAL TABLE", "SCAN steps", "SCAN oldest", "SCAN CONSTANT ROW", "SCAN (subquery"]
            .iter()
            .any(|ok| step.starts_with(ok))
}

async fn check(pool: &SqlitePool, sql: &str) {
    for statement in sql.split(';') {
        let plan = sqlx::query(AssertSqlSafe(format!("explain query plan {statement}"))).fetch_all(pool).await.unwrap();
        let steps: Vec<String> = plan.iter().map(|row| row.get(3)).collect();
        assert!(steps.iter().all(|step| is_bounded(step)), "{statement}\n{steps:#?}");
        assert!(!steps.iter().any(|step| step.contains("AUTOMATIC")), "{statement}\n{steps:#?}");
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
        credentials::READS,
        ended::HOT,
        extras::HOT,
        timers::HOT,
        notices::HOT,
        sending::READS,
        speed::READS,
    ];
    for sql in groups.into_iter().flatten() {
        check(&pool, sql).await;
    }
    check(&pool, lease::LANES).await;
    for sql in lease::statements() {
        check(&pool, &sql).await;
    }
    for project in [None, Some(ProjectId::new(Timestamp::from_millis(0)))] {
        for status in [None, Some("completed"), Some("failed"), Some("processing"), Some("delivered"), Some("queued"), Some("cancelled")] {
            for times in [None, Some(Timestamp::from_millis(1_000_000_000_000))] {
                let query = ListQuery {
                    project,
                    status: status.map(str::to_owned),
                    created_after: times,
                    created_before: times,
                    before: times.map(|_| uuid::Uuid::max()),
                    limit: 50,
                    ..ListQuery::default()
                };
                if let Some(sql) = read::leads_sql(&query) {
                    check(&pool, &sql.into_string()).await;
                }
                if let Some(sql) = read::deliveries_sql(&query) {
                    check(&pool, &sql.into_string()).await;
                }
            }
        }
    }
}
