//! A full disk: requests are refused, nothing that was acknowledged is lost, and work goes on when there is room again.

use sqlx::Row;

use super::{SqliteStore, StoreOptions};
use crate::model::{BatchId, BatchOptions, DeliveryId, LeadStatus, ProjectId};
use crate::model::{CredentialId, Lead, LeadId, Timestamp};
use crate::store::{Intake, IntakeExtras, NewDelivery, Store, StoreError};

fn intake(n: usize) -> Intake {
    let now = Timestamp::from_millis(n as i64);
    let lead: Lead = serde_json::from_value(serde_json::json!({
        "id": LeadId::new(now), "project": ProjectId::new(now), "phones": [], "emails": [], "origin": {},
        "fields": {"text": "x".repeat(5_000)}, "created_at": now,
    }))
    .unwrap();
    let delivery = NewDelivery {
        id: DeliveryId::new(now),
        credential_id: CredentialId::new(now),
        channel: "webhook".to_owned(),
        due_at: now,
        settings: None,
    };
    Intake {
        lead,
        status: LeadStatus::Accepted,
        dedup: None,
        batch: BatchId::new(now),
        options: BatchOptions::default(),
        deliveries: vec![delivery],
        correlation: String::new(),
        idempotency: None,
        extras: IntakeExtras::default(),
    }
}

/// Sets the file's greatest size in pages; `spare` over what it has now.
async fn limit_to(store: &SqliteStore, spare: i64) {
    let limited = store.writer.write(move |tx| {
        Box::pin(async move {
            let pages: i64 = sqlx::query("pragma page_count").fetch_one(&mut tx.conn).await?.try_get(0)?;
            let sql = format!("pragma max_page_count = {}", pages + spare);
            sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut tx.conn).await?;
            Ok(())
        })
    });
    limited.await.unwrap();
}

#[tokio::test]
async fn a_full_disk_refuses_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&dir.path().join("leadwire.db"), StoreOptions::default()).await.unwrap();
    limit_to(&store, 20).await;
    let mut acknowledged = Vec::new();
    let refused = loop {
        let intake = intake(acknowledged.len());
        let id = intake.lead.id;
        match store.accept(intake).await {
            Ok(_) => acknowledged.push(id),
            Err(error) => break error,
        }
    };
    assert!(matches!(&refused, StoreError::Unavailable(why) if why.contains("full")), "{refused}");
    assert!(!acknowledged.is_empty());
    assert_eq!(store.backlog(), acknowledged.len() as u64);
    assert!(matches!(store.ping().await, Err(StoreError::Unavailable(why)) if why.contains("the disk is full")));
    limit_to(&store, 1_000).await;
    // No request need fail or succeed for it: who asks whether the store is well again finds out.
    store.failing.forget_probe();
    store.ping().await.unwrap();
    let after = intake(1_000);
    acknowledged.push(after.lead.id);
    store.accept(after).await.unwrap();
    for id in acknowledged {
        assert!(store.lead(id).await.unwrap().is_some());
    }
}
