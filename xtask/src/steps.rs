//! Runs other programs with one progress line each, and says what went wrong.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::paths::Paths;

/// How often the line is looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often progress is told where the line cannot be rewritten.
const TELL_EVERY: Duration = Duration::from_secs(15);
/// How much of a failed program's output is shown.
const TAIL_LINES: usize = 30;

/// Runs a program with its output in a log file, under one line of progress.
pub fn run(paths: &Paths, label: &str, command: &mut Command) -> Result<()> {
    run_within(paths, label, command, Duration::MAX)
}

/// Like [`run`], and ends the program after `limit`.
pub fn run_within(paths: &Paths, label: &str, command: &mut Command, limit: Duration) -> Result<()> {
    fs::create_dir_all(paths.logs())?;
    let name: String = label.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let log = paths.logs().join(format!("{name}.log"));
    let mut line = Line::new(label);
    let (status, timed_out) = watch(command, &log, &mut line, limit)?;
    if status.success() {
        line.finish("done");
        return Ok(());
    }
    line.finish("FAILED");
    println!("{}", tail(&log));
    if timed_out {
        bail!("{label}: not done after {} s", limit.as_secs());
    }
    bail!("{label}: {} ended with {status}; its whole output: {}", command.get_program().display(), crate::shown(&log));
}

/// Runs a program that talks to the developer itself.
pub fn attached(label: &str, command: &mut Command) -> Result<()> {
    println!("==> {label}");
    let status = command.status().with_context(|| format!("{label}: start {}", command.get_program().display()))?;
    if !status.success() {
        bail!("{label}: {} ended with {status}", command.get_program().display());
    }
    Ok(())
}

/// What a program prints, or why there is nothing.
pub fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().display().to_string();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {name}"))?;
    if !output.status.success() {
        bail!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn watch(command: &mut Command, log: &Path, line: &mut Line, limit: Duration) -> Result<(ExitStatus, bool)> {
    let file = Arc::new(Mutex::new(File::create(log).with_context(|| format!("create {}", log.display()))?));
    let name = command.get_program().display().to_string();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.as_mut().map_err(|error| anyhow::anyhow!("start {name}: {error}"))?;
    let last = Arc::new(Mutex::new(String::new()));
    let readers: Vec<_> = [child.stdout.take().map(boxed), child.stderr.take().map(boxed)]
        .into_iter()
        .flatten()
        .map(|stream| follow(stream, file.clone(), last.clone()))
        .collect();
    let mut timed_out = false;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if !timed_out && line.started.elapsed() > limit {
            timed_out = true;
            child.kill()?;
        }
        line.show(&last.lock().unwrap_or_else(PoisonError::into_inner));
        thread::sleep(TICK);
    };
    // A killed program may have left children that hold the pipes: their end is not waited for.
    if !timed_out {
        for reader in readers {
            let _ended = reader.join();
        }
    }
    Ok((status, timed_out))
}

fn boxed(stream: impl Read + Send + 'static) -> Box<dyn Read + Send> {
    Box::new(stream)
}

fn follow(stream: Box<dyn Read + Send>, log: Arc<Mutex<File>>, last: Arc<Mutex<String>>) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            // A full disk shows itself in the program's own failure.
            let _written = writeln!(log, "{line}");
            *last.lock().unwrap_or_else(PoisonError::into_inner) = line;
        }
    })
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

/// One line of progress: rewritten in a terminal, told now and then elsewhere.
pub struct Line {
    label: String,
    started: Instant,
    told: Instant,
    terminal: bool,
}

impl Line {
    /// Starts the line.
    pub fn new(label: &str) -> Self {
        let now = Instant::now();
        let line = Self { label: label.to_owned(), started: now, told: now, terminal: std::io::stdout().is_terminal() };
        if !line.terminal {
            println!("==> {label}");
        }
        line
    }

    /// Shows how long it has taken and what is going on.
    pub fn show(&mut self, detail: &str) {
        let seconds = self.started.elapsed().as_secs();
        if self.terminal {
            let detail: String = detail.trim().chars().filter(|c| !c.is_control()).take(60).collect();
            print!("\r\x1b[2K==> {} … {seconds} s  \x1b[2m{detail}\x1b[0m", self.label);
            flush();
        } else if self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            println!("    {} … {seconds} s", self.label);
        }
    }

    /// Ends the line.
    pub fn finish(self, how: &str) {
        let seconds = self.started.elapsed().as_secs_f32();
        let start = if self.terminal { "\r\x1b[2K==>" } else { "   " };
        println!("{start} {}: {how} ({seconds:.1} s)", self.label);
    }
}

/// Shows at once what was printed without a line end.
pub fn flush() {
    // Nobody is left to read it when this fails.
    let _flushed = std::io::stdout().flush();
}
