//! Lists of large leads: a page is bounded in bytes, and the cursor goes on where it ended.

use std::collections::BTreeSet;

use leadwire_tests::{Options, TestHost};
use serde_json::json;

const LEADS: usize = 24;

#[tokio::test]
async fn a_page_of_large_leads_ends_early_and_the_next_one_goes_on() {
    let host = TestHost::with(Options::default()).await;
    host.project().await;
    for number in 0..LEADS {
        let (status, body) = host
            .post(
                "/api/leads",
                &json!({"project": "ext:shop", "name": "Large", "external_id": format!("large-{number}"),
                    "fields": {"text": "x".repeat(260_000)}}),
            )
            .await;
        assert_eq!(status, 202, "{body}");
    }
    let mut seen = BTreeSet::new();
    let mut path = "/api/leads?limit=200".to_owned();
    let mut pages = 0;
    loop {
        let page = host.get(&path).await;
        pages += 1;
        assert!(page.to_string().len() < 5_000_000, "a page of {} bytes", page.to_string().len());
        for lead in page["data"].as_array().unwrap() {
            assert!(seen.insert(lead["external_id"].as_str().unwrap().to_owned()), "{} came twice", lead["external_id"]);
        }
        if page["has_more"] == false {
            break;
        }
        path = format!("/api/leads?limit=200&cursor={}", page["next_cursor"].as_str().unwrap());
    }
    assert_eq!((seen.len(), pages), (LEADS, 2));
    // A page of few rows has as many as were asked for.
    let page = host.get("/api/leads?limit=3").await;
    assert_eq!((page["data"].as_array().unwrap().len(), &page["has_more"]), (3, &json!(true)));
}
