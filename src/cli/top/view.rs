//! The screen: where the figures go, on terminals of every size. Pure.

use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Margin, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Sparkline};

use super::model::{Model, Monitoring, Series};
use super::rows::{MAX_RANK, Row, Section, UNKNOWN, sections};
use super::theme::Theme;
use super::words::{count, duration, number, whole};

/// Columns from which on there are panels, two of them side by side.
const PANELS_WIDTH: u16 = 120;
/// Columns from which on there are three of them.
const THREE_PANELS_WIDTH: u16 = 160;
/// Lines of a panel with a plot: its frame, a row, and at least two lines of bars.
const LEAST_PLOT_HEIGHT: u16 = 5;
/// Taller bars say no more.
const MOST_PLOT_HEIGHT: u16 = 18;
/// Columns of bars below which they are left out behind a row.
const LEAST_BARS: u16 = 8;
/// Steps in the height of bars that are told apart.
const BAR_STEPS: f64 = 1000.0;

/// What the user has asked for.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// How things look.
    pub theme: Theme,
    /// The screen holds still.
    pub paused: bool,
    /// Words are explained.
    pub help: bool,
}

const KEYS: &str = "q quit · p pause · ? help";
const HELP: [&str; 6] = [
    "ledger: received, and recovered where there are any, = delivered + dead-lettered + dropped + held; a rejected record was never received.",
    "sent again: records by the error of their entry or request.",
    "perhaps twice: the answer to a request was lost, so Firehose may have its records already.",
    "billed: Firehose rounds each record up to 5 KiB; packed, many of yours are one of its.",
    "unknown: the daemon does not say, or does not know it yet.",
    "q, Esc and Ctrl-C quit, p holds the screen still, ? ends this help.",
];
/// Most lines of a sentence of [`HELP`].
const MOST_HELP: usize = 3;

/// Draws the whole screen as it is at `now`.
pub fn draw(frame: &mut Frame<'_>, model: &Model, manner: Manner, now: Instant) {
    let theme = manner.theme;
    let area = frame.area();
    let width = usize::from(inset(area).width);
    let most = if area.height < 30 { 3 } else { 5 };
    let verdict = wrapped(&verdict(model, theme, now), width, most);
    let footer = if manner.help {
        HELP.iter().flat_map(|text| wrapped(&Line::styled(*text, theme.quiet()), width, MOST_HELP)).collect()
    } else {
        vec![Line::styled(KEYS, theme.quiet())]
    };
    let lines = |lines: &[Line<'_>]| Constraint::Length(u16::try_from(lines.len()).unwrap_or(u16::MAX));
    let [title, way, why, body, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(2),
        lines(&verdict),
        Constraint::Fill(1),
        lines(&footer),
    ])
    .areas(area);
    draw_title(frame, title, model, manner);
    draw_way(frame, way, model, theme);
    draw_lines(frame, inset(why), &verdict);
    let sections = sections(model, theme);
    draw_panels(frame, body, model, &sections, theme)
        .unwrap_or_else(|| draw_list(frame, body, model, &sections, theme));
    if model.away.is_some() {
        for old in [way, body] {
            frame.buffer_mut().set_style(old, theme.quiet());
        }
    }
    draw_lines(frame, inset(keys), &footer);
}

/// The same in plain text, for those who read it without a terminal.
#[must_use]
pub fn text(model: &Model, now: Instant) -> String {
    let theme = Theme { colour: false };
    let mut text = format!("{}, {}\n{}\n", about(model), model.address, verdict(model, theme, now));
    for section in sections(model, theme) {
        text.push_str(&format!("\n{}\n", section.title));
        for Row { label, value, .. } in section.rows {
            text.push_str(&format!("  {label:<16}{value}\n"));
        }
    }
    text
}

/// Which daemon it is.
fn about(model: &Model) -> String {
    let status = &model.status;
    let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| UNKNOWN.to_owned());
    let mut state = or_unknown(&status.state);
    if let Some(uptime) = status.uptime_seconds {
        state.push_str(&format!(" for {}", duration(Duration::from_secs(uptime))));
    }
    if status.ready == Some(false) {
        state.insert_str(0, "NOT READY, ");
    }
    if model.away.is_some() {
        state = "NO ANSWER".to_owned();
    }
    let (version, stream) = (or_unknown(&status.version), or_unknown(&status.delivery_stream_name));
    let others = match status.streams.len() {
        0 | 1 => String::new(),
        streams => format!(" and {} more", streams - 1),
    };
    format!("hydrant {version}, stream {stream}{others}, {state}")
}

/// Whether records flow, and if not, where they are stuck and why; or that nothing is known any
/// more.
fn verdict(model: &Model, theme: Theme, now: Instant) -> Line<'static> {
    if let Some(why) = &model.away {
        let silence = duration(now.saturating_duration_since(model.answered));
        let every = duration(model.every);
        return Line::from(vec![
            Span::styled(format!("NO ANSWER for {silence}"), theme.problem()),
            Span::raw(format!(": {why}; the figures are the last known; asked again every {every}")),
        ]);
    }
    let stuck = &model.status.stuck;
    let (Some(at), Some(level)) = (&stuck.at, &stuck.level) else {
        return Line::styled("where records are stuck is unknown", theme.quiet());
    };
    let place = if at == "nowhere" { String::new() } else { format!(" at {}", place(at)) };
    let why = stuck.why.as_deref().unwrap_or("unknown");
    Line::from(vec![
        Span::styled(format!("{}{place}", level.to_uppercase()), theme.level(level)),
        Span::raw(format!(": {why}")),
    ])
}

/// A stretch of the way as the screen calls it.
fn place(at: &str) -> &str {
    STATIONS.iter().find(|(name, _)| *name == at).map_or(at, |(_, shown)| shown)
}

fn draw_title(frame: &mut Frame<'_>, area: Rect, model: &Model, manner: Manner) {
    let bar = Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD);
    frame.buffer_mut().set_style(area, bar);
    let mut title = format!(" {}", about(model));
    if manner.paused {
        title.insert_str(0, " PAUSED ");
    }
    let title = Line::raw(title);
    let whence = Line::raw(format!("{}, every {} ", model.address, duration(model.every))).right_aligned();
    if title.width() + whence.width() < usize::from(area.width) {
        frame.render_widget(whence, area);
    }
    draw_line(frame, area, &title);
}

/// The stations of a record, by their names in `/status`.
const STATIONS: [(&str, &str); 4] = [
    ("producer", "producers"),
    ("daemon", "daemon"),
    ("firehose", "Firehose"),
    ("destination", "destination"),
];

/// The way of a record with what is at each station, the stuck one in brackets.
fn draw_way(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let status = &model.status;
    let or_unknown = |figure: Option<u64>, unit: &str| {
        format!("{} {unit}", figure.map_or_else(|| UNKNOWN.to_owned(), count))
    };
    let stream = &status.stream;
    let in_flight = match (stream.in_flight_requests, stream.max_in_flight_requests) {
        (Some(requests), Some(most)) => format!("{}/{} in flight", count(requests), count(most)),
        (requests, _) => or_unknown(requests, "in flight"),
    };
    let destination = match &status.monitor {
        Monitoring::On(monitor) => monitor.destination.clone(),
        Monitoring::Unknown | Monitoring::Off => None,
    };
    let figures = [
        or_unknown(status.connections, "connected"),
        or_unknown(status.ledger.held.records, "held"),
        in_flight,
        destination.unwrap_or_else(|| UNKNOWN.to_owned()),
    ];
    let level = status.stuck.level.as_deref().unwrap_or_default();
    let cells = Layout::horizontal([Constraint::Fill(1); STATIONS.len()]).split(inset(area));
    for (((name, shown), figure), cell) in STATIONS.into_iter().zip(figures).zip(cells.iter()) {
        let stuck = status.stuck.at.as_deref() == Some(name);
        let station = if stuck {
            Span::styled(format!("[{shown}]"), theme.level(level).add_modifier(Modifier::REVERSED))
        } else {
            Span::styled(shown, Style::new().add_modifier(Modifier::BOLD))
        };
        let arrow = usize::from(cell.width).saturating_sub(station.width() + 3);
        let arrow =
            if name == "destination" { String::new() } else { format!(" {}▶", "─".repeat(arrow)) };
        let mut rows = cell.rows();
        for line in [Line::from(vec![station, Span::styled(arrow, theme.quiet())]), Line::raw(figure)] {
            rows.next().into_iter().for_each(|row| draw_line(frame, row, &line));
        }
    }
}

/// Plots above, panels below; `None`, and nothing drawn, where the area is too small for them.
fn draw_panels(
    frame: &mut Frame<'_>,
    area: Rect,
    model: &Model,
    sections: &[Section],
    theme: Theme,
) -> Option<()> {
    let [flow, others @ ..] = sections else { return None };
    let columns = match area.width {
        ..PANELS_WIDTH => return None,
        PANELS_WIDTH..THREE_PANELS_WIDTH => 2,
        _ => 3,
    };
    let room = area.height.checked_sub(LEAST_PLOT_HEIGHT)?;
    let held = others.iter().flat_map(|section| &section.rows).zip([Series::Held]);
    let (wide, others): (Vec<_>, Vec<_>) = others.iter().partition(|section| section.wide);
    let wide_height =
        |rank: u8| wide.iter().map(|section| height_of(section, rank)).fold(0, u16::saturating_add);
    // As many rows as fit: those of the highest ranks are left out first.
    let mut ranks = (0..=MAX_RANK).rev().map(|rank| (rank, Places::of(&others, rank, columns)));
    let (rank, places) =
        ranks.find(|(rank, places)| places.height.saturating_add(wide_height(*rank)) <= room)?;
    let [plots, across, panels] = Layout::vertical([
        Constraint::Max(MOST_PLOT_HEIGHT),
        Constraint::Length(wide_height(rank)),
        Constraint::Min(places.height),
    ])
    .areas(area);
    let in_and_out = flow.rows.iter().zip([Series::Received, Series::Delivered]);
    let cells = Layout::horizontal([Constraint::Fill(1); 3]).split(plots);
    for ((row, series), cell) in in_and_out.chain(held).zip(cells.iter()) {
        draw_plot(frame, *cell, model, row, series, theme);
    }
    let mut top = across.y;
    for section in wide {
        let area = Rect { y: top, height: height_of(section, rank), ..across };
        draw_section(frame, area, section, rank, theme);
        top += area.height;
    }
    let cells = Layout::horizontal(vec![Constraint::Fill(1); columns]).split(panels);
    for (section, place) in others.into_iter().zip(places.of_sections) {
        let Some(column) = cells.get(place.column) else { continue };
        let area = Rect { y: column.y + place.top, height: place.height, ..*column };
        draw_section(frame, area, section, rank, theme);
    }
    Some(())
}

/// A frame with the rows of a section up to `rank`; nothing where it has no height.
fn draw_section(frame: &mut Frame<'_>, area: Rect, section: &Section, rank: u8, theme: Theme) {
    if area.height == 0 {
        return;
    }
    let inner = draw_frame(frame, area, section.title, theme);
    let rows: Vec<_> = section.rows.iter().filter(|row| row.rank <= rank).collect();
    draw_rows(frame, inner, &rows, theme);
}

/// Lines of a section's frame and its rows up to `rank`; 0 where a wide one has none of them.
fn height_of(section: &Section, rank: u8) -> u16 {
    match section.rows.iter().filter(|row| row.rank <= rank).count() {
        0 if section.wide => 0,
        rows => u16::try_from(rows + 2).unwrap_or(u16::MAX),
    }
}

/// Where the panels go.
struct Places {
    /// Each section's, in their order.
    of_sections: Vec<Place>,
    /// Of the highest column.
    height: u16,
}

struct Place {
    column: usize,
    top: u16,
    height: u16,
}

impl Places {
    /// Each panel goes where there is least above it.
    fn of(sections: &[&Section], rank: u8, columns: usize) -> Self {
        let mut filled = vec![0_u16; columns];
        let of_sections = sections.iter().map(|section| {
            let height = height_of(section, rank);
            let least = filled.iter_mut().enumerate().min_by_key(|(_, filled)| **filled);
            let Some((column, filled)) = least else { return Place { column: 0, top: 0, height } };
            let top = *filled;
            *filled = top.saturating_add(height);
            Place { column, top, height }
        });
        let of_sections = of_sections.collect();
        Self { of_sections, height: filled.into_iter().max().unwrap_or(0) }
    }
}

/// A frame with a title; returns what is inside.
fn draw_frame(frame: &mut Frame<'_>, area: Rect, title: &str, theme: Theme) -> Rect {
    let title = Span::styled(format!(" {title} "), Style::new().add_modifier(Modifier::BOLD));
    let block = Block::bordered().border_style(theme.quiet()).title(title);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    inset(inner)
}

/// A framed plot below its row.
fn draw_plot(frame: &mut Frame<'_>, area: Rect, model: &Model, row: &Row, series: Series, theme: Theme) {
    let inner = draw_frame(frame, area, &row.label, theme);
    let [figures, bars] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(inner);
    draw_line(frame, figures, &row.value);
    let highest = draw_bars(frame, bars, model, series, theme);
    let unit = if series == Series::Held { "" } else { "/s" };
    let scale = format!(" last {}, at most {}{unit} ", duration(model.samples.span()), number(highest));
    let scale = Line::styled(scale, theme.quiet()).right_aligned();
    if let Some(bottom) = area.rows().next_back().filter(|_| scale.width() + 2 <= usize::from(area.width)) {
        frame.render_widget(scale, inset(bottom));
    }
}

/// A figure over the last minutes; returns its highest value.
fn draw_bars(frame: &mut Frame<'_>, area: Rect, model: &Model, series: Series, theme: Theme) -> f64 {
    let values = model.samples.plot(series, model.samples.span(), area.width);
    let highest = values.iter().flatten().copied().fold(0.0, f64::max);
    let scale = if highest > 0.0 { BAR_STEPS / highest } else { 0.0 };
    let bars: Vec<Option<u64>> = values.into_iter().map(|value| Some(whole(value? * scale))).collect();
    let bars =
        Sparkline::default().data(bars).max(whole(BAR_STEPS)).absent_value_symbol(" ").style(theme.plot());
    frame.render_widget(bars, area);
    highest
}

/// One row below the other, for what has no room for panels. Bars go behind the rows of the flow,
/// which are the first.
fn draw_list(frame: &mut Frame<'_>, area: Rect, model: &Model, sections: &[Section], theme: Theme) {
    let rows: Vec<&Row> = sections.iter().flat_map(|section| &section.rows).collect();
    let height = usize::from(area.height);
    let up_to = |rank: u8| rows.iter().filter(|row| row.rank <= rank).count();
    let rank = (0..=MAX_RANK).rev().find(|rank| up_to(*rank) <= height).unwrap_or(0);
    // What room is left is for rows of the next rank, from the top.
    let mut left = height.saturating_sub(up_to(rank));
    let shown = rows.iter().copied().filter(|row| {
        let next = row.rank == rank + 1 && left > 0;
        left -= usize::from(next);
        row.rank <= rank || next
    });
    let area = inset(area);
    let label_width = draw_rows(frame, area, &shown.collect::<Vec<_>>(), theme);
    for ((row, line), series) in rows.iter().zip(area.rows()).zip([Series::Received, Series::Delivered]) {
        let taken = u16::try_from(label_width + row.value.width() + 2).unwrap_or(u16::MAX);
        let room = Rect { x: line.x.saturating_add(taken), width: line.width.saturating_sub(taken), ..line };
        if room.width >= LEAST_BARS {
            draw_bars(frame, room, model, series, theme);
        }
    }
}

/// One row a line, as many as there are lines; returns the width of the names in front.
fn draw_rows(frame: &mut Frame<'_>, area: Rect, rows: &[&Row], theme: Theme) -> usize {
    let width = 2 + rows.iter().map(|row| row.label.chars().count()).max().unwrap_or(0);
    for (line, Row { label, value, .. }) in area.rows().zip(rows) {
        let label = Span::styled(format!("{label:<width$}"), theme.quiet());
        let spans = [label].into_iter().chain(value.spans.iter().cloned());
        draw_line(frame, line, &spans.collect());
    }
    width
}

/// `line` cut between words into lines of `width`. What would need more than `most` of them stays on
/// the last.
fn wrapped(line: &Line<'_>, width: usize, most: usize) -> Vec<Line<'static>> {
    let mut lines = vec![];
    let mut last = Line::default();
    for span in &line.spans {
        for word in span.content.split_inclusive(' ') {
            let fits = || last.width() + Span::raw(word.trim_end()).width() <= width;
            if lines.len() + 1 < most && !last.spans.is_empty() && !fits() {
                lines.push(std::mem::take(&mut last));
            }
            last.push_span(Span::styled(word.to_owned(), span.style.patch(line.style)));
        }
    }
    lines.push(last);
    lines
}

fn draw_lines(frame: &mut Frame<'_>, area: Rect, lines: &[Line<'_>]) {
    for (row, line) in area.rows().zip(lines) {
        draw_line(frame, row, line);
    }
}

/// A line, with a sign where there is more of it than fits.
fn draw_line(frame: &mut Frame<'_>, area: Rect, line: &Line<'_>) {
    frame.render_widget(line, area);
    if line.width() > usize::from(area.width)
        && let Some(last) = area.columns().next_back().and_then(|column| frame.buffer_mut().cell_mut(column))
    {
        last.set_symbol("…");
    }
}

/// `area` without its first and last column.
fn inset(area: Rect) -> Rect {
    area.inner(Margin::new(1, 0))
}
