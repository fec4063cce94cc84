//! The live table of deliveries: rewritten in a terminal, one line per ended delivery elsewhere.

use std::collections::HashSet;
use std::io::IsTerminal;

use super::api::Delivery;
use super::leads::Sent;
use crate::steps;

const CHANNELS: [&str; 3] = ["webhook", "telegram", "email"];
const NAME_WIDTH: usize = 26;
const CELL_WIDTH: usize = 20;

/// What is on the screen.
pub struct Table {
    names: Vec<String>,
    terminal: bool,
    drawn: usize,
    told: HashSet<String>,
}

impl Table {
    /// An empty table.
    pub fn new(sent: &[Sent]) -> Self {
        let names = sent.iter().map(|lead| lead.name().to_owned()).collect();
        Self { names, terminal: std::io::stdout().is_terminal(), drawn: 0, told: HashSet::new() }
    }

    /// Shows the deliveries, lead by lead.
    pub fn show(&mut self, state: &[Vec<Delivery>]) {
        if !self.terminal {
            self.tell(state);
            return;
        }
        if self.drawn > 0 {
            print!("\x1b[{}A", self.drawn);
        }
        let lines = render(&self.names, state, true);
        for line in &lines {
            println!("\x1b[2K{line}");
        }
        self.drawn = lines.len();
        steps::flush();
    }

    fn tell(&mut self, state: &[Vec<Delivery>]) {
        for (name, deliveries) in self.names.iter().zip(state) {
            for delivery in deliveries.iter().filter(|delivery| delivery.has_ended()) {
                if self.told.insert(delivery.id.clone()) {
                    let line = format!("    {} {:<9} {} {}", pad(name, NAME_WIDTH), delivery.channel, delivery.status, tries(delivery));
                    println!("{}", line.trim_end());
                }
            }
        }
    }
}

fn render(names: &[String], state: &[Vec<Delivery>], colour: bool) -> Vec<String> {
    let mut lines = vec![format!("{} {}", pad("lead", NAME_WIDTH), CHANNELS.map(|channel| pad(channel, CELL_WIDTH)).join(" "))];
    for (name, deliveries) in names.iter().zip(state) {
        let cells = CHANNELS.map(|channel| match deliveries.iter().find(|delivery| delivery.channel == channel) {
            Some(delivery) => cell(delivery, colour),
            None => pad("-", CELL_WIDTH),
        });
        lines.push(format!("{} {}", pad(name, NAME_WIDTH), cells.join(" ")).trim_end().to_owned());
    }
    lines
}

fn cell(delivery: &Delivery, colour: bool) -> String {
    let text = pad(format!("{} {}", delivery.status, tries(delivery)).trim_end(), CELL_WIDTH);
    let code = match delivery.status.as_str() {
        "delivered" => 32,
        "queued" | "sending" => 33,
        _ => 31,
    };
    if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text }
}

/// Said only when there was more than one.
fn tries(delivery: &Delivery) -> String {
    if delivery.attempts > 1 { format!("({} tries)", delivery.attempts) } else { String::new() }
}

/// Cut or filled to `width` characters.
fn pad(text: &str, width: usize) -> String {
    let cut: String = text.chars().take(width).collect();
    let missing = width - cut.chars().count();
    cut + &" ".repeat(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_a_cell_per_channel() {
        let delivery = |channel: &str, status: &str, attempts| Delivery {
            id: "d".into(),
            channel: channel.into(),
            status: status.into(),
            attempts,
            error: None,
        };
        let state = vec![vec![delivery("email", "delivered", 2), delivery("webhook", "queued", 0)]];
        let lines = render(&["Иван".to_owned()], &state, false);
        assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>(), ["Иван", "queued", "-", "delivered", "(2", "tries)"]);
        assert_eq!(lines[0].find("webhook"), Some(27));
    }
}
