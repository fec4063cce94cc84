//! What a test may set: the server's abilities and its behaviour at each stage.

use std::collections::{HashMap, VecDeque};

use crate::Gate;

/// Where in the dialogue something happens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Before the first command.
    Greeting,
    /// EHLO or HELO.
    Ehlo,
    /// STARTTLS.
    StartTls,
    /// The verdict on a login.
    Auth,
    /// MAIL FROM.
    Mail,
    /// RCPT TO, whoever it is.
    Rcpt,
    /// RCPT TO this address; goes before [`Stage::Rcpt`].
    RcptOf(String),
    /// The DATA command.
    Data,
    /// After the final dot.
    Dot,
    /// NOOP.
    Noop,
    /// RSET.
    Rset,
    /// QUIT.
    Quit,
}

/// What happens at a stage.
#[derive(Clone, Debug)]
pub enum Act {
    /// As an ordinary server would.
    Normal,
    /// This reply, for example `450 4.2.0 greylisted`. A text of several lines is sent as a multi-line
    /// reply. What it says happens: only 2xx and 3xx move the dialogue on.
    Reply(String),
    /// This reply, then the connection closes.
    ReplyAndClose(String),
    /// The connection closes without a reply.
    Close,
    /// At the final dot: the message is kept, then the connection closes without a reply. Elsewhere like [`Act::Close`].
    KeepAndClose,
    /// As an ordinary server would, then the connection closes.
    NormalAndClose,
    /// Waits for the gate, then goes on as an ordinary server would.
    Held(Gate),
    /// An ordinary reply, one byte per [`Gate::step`].
    Steps(Gate),
    /// These bytes as they are.
    Raw(Vec<u8>),
}

impl Act {
    /// Shorthand for [`Act::Reply`].
    #[must_use]
    pub fn reply(text: &str) -> Self {
        Self::Reply(text.to_owned())
    }
}

/// What the server can do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Lines of the EHLO answer, beside SIZE and AUTH.
    pub extensions: Vec<String>,
    /// Largest message; announced, and larger ones are refused with 552.
    pub size: Option<usize>,
    /// Mechanisms to announce. PLAIN and LOGIN are understood; empty: no AUTH line, AUTH is refused with 502.
    pub auth: Vec<String>,
    /// Name and password that are accepted; none accepts any.
    pub login: Option<(String, String)>,
    /// MAIL is refused with 530 before a login.
    pub login_required: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            extensions: ["PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"].map(str::to_owned).to_vec(),
            size: Some(10 << 20),
            auth: Vec::new(),
            login: None,
            login_required: false,
        }
    }
}

impl Settings {
    /// PLAIN and LOGIN with this name and password, without which no mail is taken.
    #[must_use]
    pub fn with_login(user: &str, password: &str) -> Self {
        Self {
            auth: vec!["PLAIN".to_owned(), "LOGIN".to_owned()],
            login: Some((user.to_owned(), password.to_owned())),
            login_required: true,
            ..Self::default()
        }
    }
}

/// Acts to come, by stage.
#[derive(Debug, Default)]
pub(super) struct Scripts {
    queued: HashMap<Stage, VecDeque<Act>>,
    always: HashMap<Stage, Act>,
}

impl Scripts {
    pub(super) fn queue(&mut self, stage: Stage, acts: impl IntoIterator<Item = Act>) {
        self.queued.entry(normal(stage)).or_default().extend(acts);
    }

    pub(super) fn set(&mut self, stage: Stage, act: Act) {
        self.always.insert(normal(stage), act);
    }

    /// The act for a stage: the most particular stage first, a queued act before a standing one.
    pub(super) fn next(&mut self, stage: &Stage) -> Act {
        let general = matches!(stage, Stage::RcptOf(_)).then_some(Stage::Rcpt);
        for stage in [Some(normal(stage.clone())), general].into_iter().flatten() {
            if let Some(act) = self.queued.get_mut(&stage).and_then(VecDeque::pop_front) {
                return act;
            }
            if let Some(act) = self.always.get(&stage) {
                return act.clone();
            }
        }
        Act::Normal
    }
}

fn normal(stage: Stage) -> Stage {
    match stage {
        Stage::RcptOf(address) => Stage::RcptOf(address.to_ascii_lowercase()),
        other => other,
    }
}
