//! The figures, as a table and as JSON.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::hardware::Hardware;

/// One figure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// Stable, for comparing two reports.
    pub id: String,
    #[allow(missing_docs)]
    pub name: String,
    #[allow(missing_docs)]
    pub value: f64,
    #[allow(missing_docs)]
    pub unit: String,
    /// How it was measured, in a few words.
    pub method: String,
    /// The same of the server we compare with.
    pub peer: Option<f64>,
    /// What we want to reach.
    pub aim: Option<Aim>,
}

/// A bound that a figure should keep.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Aim {
    AtLeast(f64),
    AtMost(f64),
}

impl Aim {
    fn reached(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }

    fn text(self, value: f64) -> String {
        let mark = if self.reached(value) { "✓" } else { "✗" };
        match self {
            Self::AtLeast(bound) => format!("≥ {} {mark}", figure(bound)),
            Self::AtMost(bound) => format!("≤ {} {mark}", figure(bound)),
        }
    }
}

impl Row {
    /// A figure that nothing is compared with.
    pub fn new(id: impl Into<String>, name: impl Into<String>, value: f64, unit: &str, method: impl Into<String>) -> Self {
        Self { id: id.into(), name: name.into(), value, unit: unit.into(), method: method.into(), peer: None, aim: None }
    }

    /// With the peer's figure.
    pub fn peer(mut self, peer: impl Into<Option<f64>>) -> Self {
        self.peer = peer.into();
        self
    }

    /// With an aim.
    pub fn aim(mut self, aim: impl Into<Option<Aim>>) -> Self {
        self.aim = aim.into();
        self
    }

    /// Ours divided by the peer's.
    fn ratio(&self) -> Option<f64> {
        self.peer.filter(|peer| *peer > 0.0).map(|peer| self.value / peer)
    }
}

/// All of it.
pub struct Report {
    #[allow(missing_docs)]
    pub hardware: Hardware,
    /// The host's binary and version.
    pub host: String,
    /// Short runs.
    pub quick: bool,
    #[allow(missing_docs)]
    pub rows: Vec<Row>,
    /// What went wrong; a report with problems is a failure.
    pub problems: Vec<String>,
}

/// Load of the machine beside which figures mean little.
const BUSY: f64 = 0.7;
const HEAD: [&str; 7] = ["measure", "Leadwire", "unit", "peer", "ratio", "aim", "method"];

impl Report {
    /// For `--json`.
    pub fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let mut value = json!(row);
                value["ratio"] = json!(row.ratio());
                value["reached"] = json!(row.aim.map(|aim| aim.reached(row.value)));
                value
            })
            .collect();
        json!({"hardware": self.hardware, "host": self.host, "quick": self.quick, "measures": rows, "problems": self.problems})
    }

    /// For people.
    pub fn table(&self) -> String {
        let lines: Vec<[String; 7]> = self.rows.iter().map(cells).collect();
        let widths: [usize; 7] = std::array::from_fn(|column| {
            let cells = lines.iter().map(|line| line[column].chars().count());
            cells.chain([HEAD[column].chars().count()]).max().unwrap_or_default()
        });
        let mut out = format!("{}\nhost: {}{}\n\n", self.hardware.line(), self.host, if self.quick { " (quick: short runs)" } else { "" });
        out.push_str(&line(&HEAD.map(str::to_owned), &widths));
        out.push_str(&line(&widths.map(|width| "-".repeat(width)), &widths));
        for cells in &lines {
            out.push_str(&line(cells, &widths));
        }
        if self.hardware.load > BUSY {
            out.push_str("\nThe machine was busy with other work when this began: the figures are worse than the host.\n");
        }
        for problem in &self.problems {
            out.push_str(&format!("\nPROBLEM: {problem}\n"));
        }
        out
    }
}

fn cells(row: &Row) -> [String; 7] {
    let or_none = |text: Option<String>| text.unwrap_or_default();
    [
        row.name.clone(),
        figure(row.value),
        row.unit.clone(),
        or_none(row.peer.map(figure)),
        or_none(row.ratio().map(|ratio| format!("{ratio:.2}×"))),
        or_none(row.aim.map(|aim| aim.text(row.value))),
        row.method.clone(),
    ]
}

/// Text to the left, figures to the right.
fn line(cells: &[String; 7], widths: &[usize; 7]) -> String {
    let mut out = String::from("|");
    for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
        let right = matches!(column, 1 | 3 | 4);
        out.push_str(&if right { format!(" {pad}{cell} |") } else { format!(" {cell}{pad} |") });
    }
    out.push('\n');
    out
}

/// Three digits that count, or all before the point.
fn figure(value: f64) -> String {
    match value.abs() {
        large if large >= 1_000.0 => {
            let digits = format!("{value:.0}");
            let (head, tail) = digits.split_at(digits.len().saturating_sub(3));
            format!("{head},{tail}")
        }
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        assert_eq!([1_781.4, 836.0, 18.04, 0.5, 12_345.6].map(figure), ["1,781", "836", "18.0", "0.50", "12,346"]);
    }

    #[test]
    fn an_aim_is_a_bound() {
        assert_eq!(Aim::AtMost(0.5).text(0.49), "≤ 0.50 ✓");
        assert_eq!(Aim::AtLeast(2.0).text(1.0), "≥ 2.00 ✗");
        let row = Row::new("x", "x", 3.0, "ms", "").peer(2.0);
        assert_eq!(cells(&row)[4], "1.50×");
    }
}
