//! The real binary in a process of its own, for what a host in the test's process cannot show: kills, signals, exit codes,
//! files and what is on standard error. Waiting is by notification: standard error is read as it comes.

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::{ADMIN_KEY, MASTER_KEY, PATIENCE, plugin_file, share_compiled_code};

/// The built binary.
pub fn binary() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debug/leadwire");
    assert!(path.exists(), "{} is not built: run `cargo build --package leadwire` (cargo xtask test does)", path.display());
    path
}

/// Runs a command to its end: exit code, standard output, standard error. Only these variables are in its environment.
pub async fn run(args: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = Command::new(binary());
    command.args(args).env_clear().envs(env.iter().copied()).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("the command ends").expect("the command runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A data folder with plugin files, and the settings of the hosts that are started over it.
pub struct Place {
    folder: tempfile::TempDir,
    env: Vec<(String, String)>,
}

impl Place {
    /// A folder with these channels. Its hosts make keys of their own and compile the plugins into it.
    pub fn bare(plugins: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let channels = folder.path().join("data/channels");
        std::fs::create_dir_all(&channels).expect("the channels folder");
        for name in plugins {
            let file = plugin_file(name);
            std::fs::copy(&file, channels.join(file.file_name().unwrap_or_default())).expect("a plugin file");
        }
        let mut place = Self { folder, env: Vec::new() };
        let data = place.data().to_string_lossy().into_owned();
        place.set("DATA_DIR", &data);
        place.set("LISTEN", "127.0.0.1:0");
        place.set("EGRESS_ALLOW", "127.0.0.0/8,::1/128");
        place.set("SMTP_ALLOW_PLAIN", "true");
        place.set("NODE", "test");
        place
    }

    /// The same with the keys of all test hosts, which share their compiled plugins.
    pub fn new(plugins: &[&str]) -> Self {
        let mut place = Self::bare(plugins);
        share_compiled_code(&place.data());
        place.set("ADMIN_KEY", ADMIN_KEY);
        place.set("MASTER_KEY", MASTER_KEY);
        place
    }

    /// Changes a setting, by its name after `LEADWIRE_`.
    pub fn set(&mut self, name: &str, value: &str) {
        let name = format!("LEADWIRE_{name}");
        self.env.retain(|(known, _)| *known != name);
        self.env.push((name, value.to_owned()));
    }

    /// Changes a variable of another name.
    pub fn set_plain(&mut self, name: &str, value: &str) {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// Takes a variable away.
    pub fn unset_plain(&mut self, name: &str) {
        self.env.retain(|(known, _)| known != name);
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The environment, for [`run`].
    pub fn env(&self) -> Vec<(&str, &str)> {
        self.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    /// Starts a host; it need not be ready.
    pub fn spawn(&self) -> Process {
        let mut command = Command::new(binary());
        command.arg("serve").env_clear().envs(self.env.iter().cloned()).stdin(Stdio::null()).kill_on_drop(true);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let stderr = child.stderr.take().expect("a pipe");
        let lines = Lines::default();
        let reading = tokio::spawn(read(stderr, lines.clone()));
        Process { child, lines, reading, address: None }
    }

    /// Starts a host and waits until it takes requests.
    pub async fn start(&self) -> Process {
        let mut process = self.spawn();
        process.ready().await;
        process
    }
}

/// The lines of standard error so far.
#[derive(Clone)]
struct Lines {
    all: Arc<Mutex<Vec<String>>>,
    /// How many there are; `None` at the end.
    count: Arc<watch::Sender<Option<usize>>>,
}

impl Default for Lines {
    fn default() -> Self {
        Self { all: Arc::default(), count: Arc::new(watch::Sender::new(Some(0))) }
    }
}

impl Lines {
    fn all(&self) -> Vec<String> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn read(stderr: impl AsyncRead + Unpin, lines: Lines) {
    let mut from = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = from.next_line().await {
        lines.all.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        lines.count.send_modify(|count| *count = count.map(|count| count + 1));
    }
    lines.count.send_replace(None);
}

/// A host in a process of its own; killed when dropped.
pub struct Process {
    child: Child,
    lines: Lines,
    reading: JoinHandle<()>,
    address: Option<SocketAddr>,
}

impl Process {
    /// What it wrote to standard error so far.
    pub fn log(&self) -> Vec<String> {
        self.lines.all()
    }

    /// Waits for a line with this in it; `None` when the process ended without.
    pub async fn line_with(&self, part: &str) -> Option<String> {
        let mut count = self.lines.count.subscribe();
        let waiting = async {
            loop {
                let ended = count.borrow_and_update().is_none();
                if let Some(line) = self.log().into_iter().find(|line| line.contains(part)) {
                    return Some(line);
                }
                if ended || count.changed().await.is_err() {
                    return None;
                }
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("no line with {part:?} in {:#?}", self.log()))
    }

    /// Waits until it takes requests. `None`: it ended.
    pub async fn listening(&mut self) -> Option<SocketAddr> {
        let line = self.line_with("leadwire takes leads").await?;
        // Both forms of a line have it: `"address":"127.0.0.1:1"` and `address=127.0.0.1:1`, perhaps coloured.
        let from = &line[line.find("127.0.0.1:")?..];
        let end = from.find(|c: char| !(c.is_ascii_digit() || ".:".contains(c))).unwrap_or(from.len());
        self.address = from[..end].parse().ok();
        self.address
    }

    async fn ready(&mut self) {
        assert!(self.listening().await.is_some(), "the host did not start: {:#?}", self.log());
    }

    /// Its address, such as `http://127.0.0.1:40123`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address.expect("the host is ready"))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id().expect("the process runs")
    }

    /// Kills it as the kernel would when memory runs out; everything it wrote before.
    pub async fn kill(mut self) -> Vec<String> {
        let _ = self.child.start_kill();
        let status = self.wait().await;
        assert_eq!(status.signal(), Some(9), "it ended by itself: {status}\n{:#?}", self.log());
        self.log()
    }

    /// Asks it to stop, as a service manager does.
    pub async fn terminate(&self) {
        self.signal("TERM").await;
    }

    /// Asks it to stop, as Ctrl-C does.
    pub async fn interrupt(&self) {
        self.signal("INT").await;
    }

    async fn signal(&self, name: &str) {
        let done = Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status().await;
        assert!(done.expect("kill runs").success());
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Waits for its end; what it wrote is complete then.
    pub async fn wait(&mut self) -> ExitStatus {
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("the process ends").expect("a status");
        let _ = (&mut self.reading).await;
        status
    }

    /// Asks it to stop and waits; its exit code is 0. Everything it wrote.
    pub async fn stop(mut self) -> Vec<String> {
        self.terminate().await;
        let status = self.wait().await;
        assert_eq!(status.code(), Some(0), "{status}: {:#?}", self.log());
        self.log()
    }
}

/// The lines as JSON; each must be an object.
pub fn parsed(log: &[String]) -> Vec<Value> {
    let parse = |line: &String| match serde_json::from_str(line) {
        Ok(Value::Object(object)) => Value::Object(object),
        _ => panic!("a log line is no JSON object: {line}"),
    };
    log.iter().map(parse).collect()
}

/// One call with the admin key of all test hosts: status and body.
pub async fn call(client: &reqwest::Client, method: &str, url: &str, body: Option<&Value>) -> (u16, Value) {
    let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
    let mut request = client.request(method, url).header("x-api-key", ADMIN_KEY).timeout(PATIENCE);
    if let Some(body) = body {
        request = request.json(body);
    }
    let response = request.send().await.expect("an answer");
    let status = response.status().as_u16();
    let text = response.text().await.expect("a body");
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// Runs an independent judge (a script of `tests/setup`) over this input; what it printed.
pub async fn judge(program: &str, script: &str, input: &str) -> String {
    use tokio::io::AsyncWriteExt;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let program = if program == "python" { root.join(".venv/bin/python") } else { PathBuf::from(program) };
    let mut command = Command::new(&program);
    command.arg(root.join("tests/setup").join(script)).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let advice = "run tests/setup/*.sh first (cargo xtask test does)";
    let mut child = command.kill_on_drop(true).spawn().unwrap_or_else(|error| panic!("{}: {error}; {advice}", program.display()));
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).await.expect("the judge reads");
    drop(stdin);
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("the judge ends").expect("the judge runs");
    assert!(output.status.success(), "{script}: {}\n{advice}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
