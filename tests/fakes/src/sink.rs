//! An HTTP sink: keeps every request and answers by script.

use std::collections::{HashMap, VecDeque};
use std::io::Result;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use crate::journal::{Journal, lock};
use crate::wire::{self, Handler, Server};
use crate::{Answer, Request};

/// A receiver of webhooks. Answers 200 unless a script says otherwise.
#[derive(Debug)]
pub struct HttpSink {
    server: Server,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    journal: Journal<Request>,
    scripts: Mutex<Scripts>,
}

/// Answers to come, for one path or (under no path) for all others.
#[derive(Debug, Default)]
struct Scripts {
    queued: HashMap<Option<String>, VecDeque<Answer>>,
    always: HashMap<Option<String>, Answer>,
}

impl Scripts {
    fn next(&mut self, path: &str) -> Answer {
        for key in [Some(path.to_owned()), None] {
            if let Some(answer) = self.queued.get_mut(&key).and_then(VecDeque::pop_front) {
                return answer;
            }
            if let Some(answer) = self.always.get(&key) {
                return answer.clone();
            }
        }
        Answer::ok()
    }
}

impl Handler for State {
    fn answer(&self, request: Request) -> Answer {
        let answer = lock(&self.scripts).next(&request.path);
        self.journal.push(request);
        answer
    }
}

impl HttpSink {
    /// Starts on a free port.
    pub async fn start() -> Result<Self> {
        Self::start_on(0).await
    }

    /// Starts on this port.
    pub async fn start_on(port: u16) -> Result<Self> {
        let state = Arc::new(State { journal: Journal::new(), scripts: Mutex::default() });
        Ok(Self { server: wire::serve(state.clone(), port).await?, state })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.server.addr
    }

    /// `http://127.0.0.1:PORT` followed by `path`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.addr)
    }

    /// Adds answers, used up one per request on any path.
    pub fn script(&self, answers: impl IntoIterator<Item = Answer>) {
        lock(&self.state.scripts).queued.entry(None).or_default().extend(answers);
    }

    /// Adds answers for one path.
    pub fn script_for(&self, path: &str, answers: impl IntoIterator<Item = Answer>) {
        lock(&self.state.scripts).queued.entry(Some(path.to_owned())).or_default().extend(answers);
    }

    /// Sets the answer for when no script is left.
    pub fn always(&self, answer: Answer) {
        lock(&self.state.scripts).always.insert(None, answer);
    }

    /// Sets the answer of one path for when its script is used up.
    pub fn always_for(&self, path: &str, answer: Answer) {
        lock(&self.state.scripts).always.insert(Some(path.to_owned()), answer);
    }

    /// Every request so far.
    #[must_use]
    pub fn received(&self) -> Vec<Request> {
        self.state.journal.all()
    }

    /// Waits until `count` requests have come and returns all.
    ///
    /// # Panics
    /// When they have not come after a minute.
    pub async fn wait_for(&self, count: usize) -> Vec<Request> {
        self.state.journal.wait_for(count).await
    }

    /// Forgets what was received.
    pub fn forget(&self) {
        self.state.journal.clear();
    }
}

#[cfg(test)]
#[path = "sink_tests.rs"]
mod tests;
