//! The plot of a run: what was delivered beside the quota, what was throttled, how fair it was.

use std::fmt::Write;

use super::sim::{Scenario, WINDOW, Window, jain};

const WIDTH: f64 = 900.0;
const LEFT: f64 = 60.0;
const PANEL: f64 = 120.0;
const GAP: f64 = 40.0;

/// One curve.
struct Curve {
    colour: &'static str,
    /// A value a window.
    values: Vec<f64>,
}

/// An SVG document of three panels over one axis of time.
#[must_use]
pub fn draw(scenario: &Scenario, phases: &[Vec<Window>]) -> String {
    let windows: Vec<&Window> = phases.iter().flatten().collect();
    let of = |value: fn(&Window) -> f64| windows.iter().map(|window| value(window)).collect::<Vec<f64>>();
    let mut svg = String::new();
    let height = 3.0 * (PANEL + GAP) + GAP;
    let mut add = |text: String| svg.push_str(&text);
    add(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    ));
    let delivered = Curve { colour: "#1f77b4", values: of(|window| window.delivered / 1_048_576.0) };
    let possible = Curve { colour: "#bbbbbb", values: of(|window| window.possible / 1_048_576.0) };
    let throttled = Curve { colour: "#d62728", values: of(|window| 100.0 * window.throttled()) };
    let fair = Curve { colour: "#2ca02c", values: of(|window| jain(&window.greedy)) };
    add(panel(0, "delivered (blue) and quota (grey), MiB/s", 1.2, &[possible, delivered]));
    add(panel(1, "requests with a record throttled, %", 10.0, &[throttled]));
    add(panel(2, "Jain's index of each 20 seconds", 1.0, &[fair]));
    let (mut at, all) = (0, windows.len());
    for (phase, windows) in scenario.phases.iter().zip(phases) {
        let x = place(at, all);
        add(format!(
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{GAP}\" y2=\"{:.0}\" stroke=\"#999\" stroke-dasharray=\"3 3\"/>\n\
             <text x=\"{:.1}\" y=\"16\">{}</text>\n<text x=\"{x:.1}\" y=\"{:.0}\" fill=\"#666\">{} s</text>\n",
            height - GAP,
            x + 3.0,
            phase.name,
            height - GAP + 16.0,
            at as u64 * WINDOW.as_secs(),
        ));
        at += windows.len();
    }
    add("</svg>\n".to_owned());
    svg
}

fn place(window: usize, all: usize) -> f64 {
    LEFT + (WIDTH - LEFT - 20.0) * window as f64 / all.max(1) as f64
}

/// One panel, `most` being its upper edge; what is above is cut off.
fn panel(number: usize, title: &str, most: f64, curves: &[Curve]) -> String {
    let top = GAP + number as f64 * (PANEL + GAP);
    let bottom = top + PANEL;
    let mut svg = format!(
        "<text x=\"{LEFT}\" y=\"{:.0}\" fill=\"#333\">{title}</text>\n\
         <path d=\"M{LEFT} {top}V{bottom}H{:.0}\" fill=\"none\" stroke=\"#333\"/>\n\
         <text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{most}</text>\n\
         <text x=\"{:.0}\" y=\"{bottom}\" text-anchor=\"end\">0</text>\n",
        top - 6.0,
        WIDTH - 20.0,
        LEFT - 6.0,
        top + 10.0,
        LEFT - 6.0,
    );
    for Curve { colour, values } in curves {
        let mut points = String::new();
        for (window, value) in values.iter().enumerate() {
            let y = bottom - PANEL * (value / most).clamp(0.0, 1.0);
            // A String takes whatever is written to it.
            let _written = write!(points, "{:.1},{y:.1} ", place(window, values.len()));
        }
        let points = points.trim_end();
        svg.push_str(&format!(
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\n"
        ));
    }
    svg
}
