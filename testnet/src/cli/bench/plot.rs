//! The picture of a comparison: for each tool one panel, in it one row for each host, in the row the compilers that ran there
//! over time. All panels share the axis of time, so that a longer build is a longer picture. Written as plain SVG.

use std::fmt::Write as _;

use super::watch::Sample;

/// One tool's build.
pub(super) struct Panel<'a> {
    pub(super) title: String,
    pub(super) wall_s: f64,
    pub(super) samples: &'a [Sample],
}

const WIDTH: f64 = 880.0;
const LEFT: f64 = 40.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 44.0;
const TITLE: f64 = 24.0;
const ROW: f64 = 15.0;
const GAP: f64 = 12.0;
const AXIS: f64 = 26.0;

/// Steps that the longest build is drawn in; more than this nobody can see.
const STEPS: f64 = 280.0;

const COMPILING: &str = "#2f6fb0";
const READING: &str = "#e08a3c";

/// Draws the panels below each other under one headline.
pub(super) fn draw(headline: &str, hosts: &[String], panels: &[Panel<'_>]) -> String {
    let longest = panels.iter().map(|panel| panel.wall_s).fold(1.0, f64::max);
    let rows: Vec<Vec<Vec<Level>>> =
        panels.iter().map(|panel| panel.rows(hosts.len(), longest / STEPS)).collect();
    let most =
        rows.iter().flatten().flatten().map(|level| level.compiling + level.reading).fold(1.0, f64::max);
    let panel_height = TITLE + ROW * hosts.len() as f64 + GAP;
    let height = TOP + panel_height * panels.len() as f64 + AXIS;
    let scale =
        Scale { second: (WIDTH - LEFT - RIGHT) / longest, one: (ROW - 3.0) / most, step: longest / STEPS };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"10\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"8\" y=\"17\" font-size=\"13\" font-weight=\"bold\">{}</text>\n\
         <rect x=\"8\" y=\"25\" width=\"10\" height=\"10\" fill=\"{COMPILING}\"/><text x=\"22\" y=\"34\">compilers at work, \
         at most {most:.0} on a host</text>\n\
         <rect x=\"220\" y=\"25\" width=\"10\" height=\"10\" fill=\"{READING}\"/><text x=\"234\" y=\"34\">of these, such as \
         only preprocess or list headers</text>\n",
        escaped(headline)
    );
    for (number, (panel, rows)) in panels.iter().zip(&rows).enumerate() {
        let top = TOP + panel_height * number as f64;
        draw_panel(&mut svg, panel, hosts, rows, top, &scale);
    }
    draw_axis(&mut svg, longest, height - AXIS, &scale);
    svg.push_str("</svg>\n");
    svg
}

/// How much ran on a host during one step, on average.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Level {
    compiling: f64,
    reading: f64,
}

/// Pixels for a second and for a compiler, and the seconds of a step.
struct Scale {
    second: f64,
    one: f64,
    step: f64,
}

impl Panel<'_> {
    /// For each host the levels of all steps.
    fn rows(&self, hosts: usize, step_s: f64) -> Vec<Vec<Level>> {
        let steps = (self.wall_s / step_s).ceil() as usize;
        let mut rows = vec![vec![Level::default(); steps]; hosts];
        let mut counts = vec![0.0; steps];
        let start = self.samples.first().map_or(0.0, |sample| sample.at_s);
        for sample in self.samples {
            let step = ((sample.at_s - start) / step_s) as usize;
            let Some(count) = counts.get_mut(step) else { continue };
            *count += 1.0;
            for (row, running) in rows.iter_mut().zip(&sample.hosts) {
                row[step].compiling += running.compiling as f64;
                row[step].reading += running.reading as f64;
            }
        }
        for row in &mut rows {
            let mut last = Level::default();
            for (level, count) in row.iter_mut().zip(&counts) {
                // A step in which nobody looked is like the one before.
                if *count > 0.0 {
                    last = Level { compiling: level.compiling / count, reading: level.reading / count };
                }
                *level = last;
            }
        }
        rows
    }
}

fn draw_panel(
    svg: &mut String,
    panel: &Panel<'_>,
    hosts: &[String],
    rows: &[Vec<Level>],
    top: f64,
    scale: &Scale,
) {
    // Writing to a string cannot fail, here and below.
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{:.0}\" font-size=\"11\" font-weight=\"bold\">{}</text>",
        top + TITLE - 7.0,
        escaped(&panel.title)
    );
    let bottom = top + TITLE + ROW * rows.len() as f64;
    let end = LEFT + panel.wall_s * scale.second;
    let _ = writeln!(
        svg,
        "<path d=\"M{end:.1} {:.0}V{bottom:.0}\" stroke=\"#999\" stroke-dasharray=\"2 2\"/>",
        top + TITLE
    );
    for (number, (host, row)) in hosts.iter().zip(rows).enumerate() {
        let base = top + TITLE + ROW * (number + 1) as f64;
        let _ = writeln!(svg, "<text x=\"8\" y=\"{:.0}\" fill=\"#555\">{}</text>", base - 3.0, escaped(host));
        let _ = writeln!(svg, "<path d=\"M{LEFT} {base}H{end:.1}\" stroke=\"#ddd\"/>");
        area(svg, row, |level| level.compiling + level.reading, READING, base, scale);
        area(svg, row, |level| level.compiling, COMPILING, base, scale);
    }
}

/// A row as one filled outline of steps.
fn area(svg: &mut String, row: &[Level], what: fn(&Level) -> f64, colour: &str, base: f64, scale: &Scale) {
    if row.iter().all(|level| what(level) == 0.0) {
        return;
    }
    let _ = write!(svg, "<path fill=\"{colour}\" d=\"M{LEFT} {base}");
    let mut before = String::new();
    for (number, level) in row.iter().enumerate() {
        let y = format!("{:.1}", base - what(level) * scale.one);
        if y != before {
            let _ = write!(svg, "H{:.1}V{y}", LEFT + number as f64 * scale.step * scale.second);
            before = y;
        }
    }
    let end = LEFT + row.len() as f64 * scale.step * scale.second;
    let _ = writeln!(svg, "H{end:.1}V{base}Z\"/>");
}

fn draw_axis(svg: &mut String, longest: f64, y: f64, scale: &Scale) {
    let _ = writeln!(svg, "<path d=\"M{LEFT} {y:.0}H{:.1}\" stroke=\"#555\"/>", WIDTH - RIGHT);
    let apart = tick(longest);
    let mut second = 0.0;
    while second <= longest {
        let x = LEFT + second * scale.second;
        let _ = writeln!(svg, "<path d=\"M{x:.1} {y:.0}v4\" stroke=\"#555\"/>");
        let _ = writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{second:.0} s</text>",
            y + 15.0
        );
        second += apart;
    }
}

/// Seconds between two ticks: 1, 2 or 5 times a power of ten, so that there are at most ten.
fn tick(longest: f64) -> f64 {
    let mut power = 1.0;
    loop {
        for factor in [1.0, 2.0, 5.0] {
            if longest / (factor * power) <= 10.0 {
                return factor * power;
            }
        }
        power *= 10.0;
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::watch::Running;
    use super::*;

    fn sample(at_s: f64, compiling: usize, reading: usize) -> Sample {
        Sample { at_s, hosts: vec![Running { compiling, reading }], traffic: Default::default() }
    }

    #[test]
    fn steps_are_means_and_gaps_repeat_what_was() {
        let samples = [sample(100.0, 2, 0), sample(100.5, 0, 1), sample(103.2, 1, 0), sample(109.0, 9, 9)];
        let panel = Panel { title: String::new(), wall_s: 4.0, samples: &samples };
        let level = |compiling, reading| Level { compiling, reading };
        let expect = vec![vec![level(1.0, 0.5), level(1.0, 0.5), level(1.0, 0.5), level(1.0, 0.0)]];
        assert_eq!(panel.rows(1, 1.0), expect);
    }

    #[test]
    fn a_picture_names_hosts_and_tools_and_is_closed() {
        let samples = [sample(0.0, 2, 1)];
        let panel = Panel { title: "barn <1 s".into(), wall_s: 10.0, samples: &samples };
        let svg = draw("two & more", &["h1".into()], &[panel]);
        for part in [">h1</text>", "barn &lt;1 s", "two &amp; more", COMPILING, READING, "</svg>\n"] {
            assert!(svg.contains(part), "{part} is missing in {svg}");
        }
    }

    #[test]
    fn ticks_are_round_and_few() {
        for (longest, apart) in
            [(3.0, 1.0), (19.0, 2.0), (88.0, 10.0), (177.0, 20.0), (430.0, 50.0), (1001.0, 200.0)]
        {
            assert_eq!(tick(longest), apart);
        }
    }
}
