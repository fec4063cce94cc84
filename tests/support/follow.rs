//! Readers of live events, as clients write them.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::Value;

use crate::{ADMIN_KEY, PATIENCE};

/// One message of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// Its id, or the last one before it.
    pub id: String,
    /// Its type; empty for a comment or a bare id.
    pub event: String,
    /// What it says.
    pub data: Value,
}

/// A reader of `GET /api/events`.
pub struct Sse {
    response: reqwest::Response,
    text: String,
    ready: VecDeque<Told>,
    /// The id to resume behind.
    pub last_id: String,
}

impl Sse {
    /// Opens a stream of the address with the admin key, behind `after`.
    pub async fn open(client: &reqwest::Client, url: &str, after: Option<&str>) -> Self {
        Self::open_as(client, url, after, ADMIN_KEY).await
    }

    /// The same with another key.
    pub async fn open_as(client: &reqwest::Client, url: &str, after: Option<&str>, key: &str) -> Self {
        let mut request = client.get(url).header("x-api-key", key);
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        let response = tokio::time::timeout(PATIENCE, request.send()).await.expect("an answer in time").expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut stream = Self { response, text: String::new(), ready: VecDeque::new(), last_id: String::new() };
        // The first block sets where the stream begins.
        let hello = stream.message().await.expect("the stream begins");
        assert!(hello.event.is_empty() && !hello.id.is_empty(), "{hello:?}");
        stream
    }

    /// The next message, bare ids too; `None` at the end of the stream.
    pub async fn message(&mut self) -> Option<Told> {
        tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(told) = self.ready.pop_front() {
                    return Some(told);
                }
                // A connection that breaks off is an end too.
                let piece = self.response.chunk().await.ok().flatten()?;
                self.text.push_str(std::str::from_utf8(&piece).expect("whole characters"));
                while let Some(end) = self.text.find("\n\n") {
                    let block: String = self.text.drain(..end + 2).collect();
                    self.take(&block);
                }
            }
        })
        .await
        .expect("the stream goes on")
    }

    /// By the rules of the specification.
    fn take(&mut self, block: &str) {
        let (mut event, mut data) = (String::new(), String::new());
        for line in block.lines().filter(|line| !line.starts_with(':')) {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "id" => self.last_id = value.to_owned(),
                "event" => event = value.to_owned(),
                "data" => data.push_str(value),
                _ => {}
            }
        }
        let data = if data.is_empty() { Value::Null } else { serde_json::from_str(&data).expect("JSON") };
        self.ready.push_back(Told { id: self.last_id.clone(), event, data });
    }

    /// The next event; panics at the end of the stream.
    pub async fn event(&mut self) -> Told {
        loop {
            let told = self.message().await.expect("one more event");
            if !told.event.is_empty() {
                assert_eq!((&told.data["type"], &told.data["id"]), (&Value::from(&*told.event), &Value::from(&*told.id)));
                return told;
            }
        }
    }

    /// So many events.
    pub async fn events(&mut self, count: usize) -> Vec<Told> {
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            all.push(self.event().await);
        }
        all
    }

    /// Events up to and with the first that `is_last`.
    pub async fn until(&mut self, is_last: impl Fn(&Told) -> bool) -> Vec<Told> {
        let mut all = Vec::new();
        loop {
            let told = self.event().await;
            let last = is_last(&told);
            all.push(told);
            if last {
                return all;
            }
        }
    }

    /// Whatever follows until the end of the stream.
    pub async fn rest(mut self) -> Vec<Told> {
        let mut all = Vec::new();
        while let Some(told) = self.message().await {
            all.push(told);
        }
        all
    }
}

/// Waits until something holds that nothing tells of.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    let waiting = async {
        while !holds().await {
            ticks.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what}"));
}
