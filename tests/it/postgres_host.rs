//! A whole host that keeps everything in PostgreSQL.

use std::time::Duration;

use leadwire_fakes::HttpSink;
use leadwire_tests::postgres::Database;
use leadwire_tests::process::{Place, run};
use leadwire_tests::{Options, TestHost};
use serde_json::json;

#[tokio::test]
async fn a_host_over_postgresql_delivers_and_finds_everything_again_after_a_restart() {
    let (sink, database) = (HttpSink::start().await.unwrap(), Database::bare().await);
    let settings = vec![("database_url", database.url())];
    let host = TestHost::with(Options { plugins: vec!["webhook"], settings, ..Options::default() }).await;
    host.project().await;
    host.enable("webhook", json!({"url": sink.url("/hook")}), json!({})).await;
    let sent = host.send(json!({"name": "Ada Lovelace", "email": "ada@example.com"})).await;
    let batch = host.run_until_ended(sent["batch_id"].as_str().unwrap(), Duration::from_secs(60)).await;
    assert_eq!((batch["status"].as_str(), sink.received().len()), (Some("completed"), 1), "{batch:#}");

    let host = host.restart().await;
    let found = host.get("/api/leads?status=completed").await;
    assert_eq!(found["data"][0]["id"], sent["lead_id"], "{found:#}");
    let again = host.send(json!({"name": "Grace Hopper"})).await;
    host.run_until_ended(again["batch_id"].as_str().unwrap(), Duration::from_secs(60)).await;
    assert_eq!(sink.received().len(), 2);
}

#[tokio::test]
async fn the_tables_can_be_made_before_the_first_start() {
    let database = Database::bare().await;
    let mut place = Place::new(&[]);
    place.set("DATABASE_URL", &database.url());
    for _ in 0..2 {
        let (code, out, err) = run(&["migrate"], &place.env()).await;
        assert_eq!((code, out.as_str()), (Some(0), "the database is up to date\n"), "{err}");
    }
    place.set("DATABASE_URL", &format!("{}&password=hidden", database.url().replace("user=leadwire", "user=nobody")));
    let (code, _, err) = run(&["migrate"], &place.env()).await;
    assert!(code == Some(1) && err.contains("refuses the user") && !err.contains("hidden"), "{err}");
}
