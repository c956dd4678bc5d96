//! What `bench-mesh` found, as tables for people and as pictures.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::figures::Figures;
use super::mesh::Contender;
use super::plot::{self, Panel};
use super::rivals::Way;
use super::turn::{Stage, Turn};
use super::versions;
use crate::cli::Failure;
use crate::cli::project::Project;

/// What lies between these in a document is what the last run found.
const MARKS: [&str; 2] = ["<!-- bench-mesh: begin -->\n", "<!-- bench-mesh: end -->\n"];

/// Everything of one run.
#[derive(Default)]
pub(super) struct Report {
    sections: Vec<Section>,
}

/// One project in one office.
pub(super) struct Section {
    name: String,
    project: String,
    hosts: Vec<String>,
    cpu: f64,
    jobs: usize,
    /// Cores of the machine that built alone.
    alone: f64,
    /// Others must keep fewer cores busy than this in a quiet turn.
    spare: f64,
    all: Vec<Contender>,
}

impl Section {
    /// What the tools did on a stage.
    pub(super) fn new(
        stage: &Stage<'_>,
        project: &Project,
        name: &str,
        cpu: f64,
        all: Vec<Contender>,
    ) -> Section {
        Section {
            name: name.to_owned(),
            project: project.to_string(),
            hosts: stage.office.hosts().iter().map(|host| host.name().to_owned()).collect(),
            cpu,
            jobs: stage.jobs,
            alone: stage.bare_cpus,
            spare: stage.spare(),
            all,
        }
    }

    /// Seconds that one machine with all the office's cores takes; NaN if it could not build.
    fn ideal_s(&self) -> f64 {
        self.wall_s(Way::Alone) * self.alone / self.cores()
    }

    /// Seconds that the build took this way; NaN if it did not.
    fn wall_s(&self, way: Way) -> f64 {
        let found = self.all.iter().find(|contender| contender.tool.way() == way);
        found.map_or(f64::NAN, |found| self.of(found, |turn| turn.wall_s).median())
    }

    fn cores(&self) -> f64 {
        self.cpu * self.hosts.len() as f64
    }

    fn share(&self, contender: &Contender) -> f64 {
        self.ideal_s() / self.of(contender, |turn| turn.wall_s).median()
    }

    /// Figures of the quiet turns, or of all if none was.
    fn of(&self, contender: &Contender, what: fn(&Turn) -> f64) -> Figures {
        let quiet = |turn: &&Turn| turn.others < self.spare;
        match contender.turns.iter().filter(quiet).count() {
            0 => contender.turns.iter().map(what).collect(),
            _ => contender.turns.iter().filter(quiet).map(what).collect(),
        }
    }

    fn quiet(&self, contender: &Contender) -> usize {
        contender.turns.iter().filter(|turn| turn.others < self.spare).count()
    }

    fn picture_name(&self) -> String {
        format!("mesh-{}-{}x{}.svg", self.name, self.hosts.len(), self.cpu)
    }

    fn headline(&self) -> String {
        format!("{}: {} hosts of {} cores, -j{}", self.name, self.hosts.len(), self.cpu, self.jobs)
    }

    fn picture(&self) -> String {
        let mut panels = Vec::new();
        for contender in self.all.iter().filter(|contender| contender.tool.way() != Way::Alone) {
            if let Some(turn) = contender.turns.last() {
                let share = self.ideal_s() / turn.wall_s;
                let title =
                    format!("{}: {:.1} s, {share:.2} of the ideal", contender.tool.name(), turn.wall_s);
                panels.push(Panel { title, wall_s: turn.wall_s, samples: &turn.samples });
            }
        }
        plot::draw(&self.headline(), &self.hosts, &panels)
    }

    fn markdown(&self) -> String {
        let mut text = format!("### {}\n\n{}.\n\n", self.headline(), self.project.replace("\n    ", "; "));
        text += "| | wall s | of ideal | of attainable | requester CPU s | for a compile, ms | workers' CPU s | sent MB | received MB | later KB | remote | as local | quiet |\n\
                 |---|---|---|---|---|---|---|---|---|---|---|---|---|\n";
        for contender in &self.all {
            text += &self.row(contender);
        }
        let notes = self.all.iter().filter_map(|contender| {
            let turn = contender.turns.last().filter(|turn| !turn.notes.is_empty())?;
            Some(format!("{}: {}.\n", contender.tool.name(), turn.notes.join("; ")))
        });
        let notes: String = notes.collect();
        if !notes.is_empty() {
            text += &format!("\n{notes}");
        }
        text += &format!("\n![compilers at work on each host](bench/{})\n", self.picture_name());
        text
    }

    fn row(&self, contender: &Contender) -> String {
        let alone = format!("one machine, {} cores", self.alone);
        let tool = contender.tool.as_ref();
        let by_hand = format!("{} machines, nothing between", self.hosts.len());
        let name = match tool.way() {
            Way::Alone => &alone,
            Way::ByHand => &by_hand,
            Way::Itself => tool.name(),
        };
        if contender.turns.is_empty() {
            let trouble = contender.trouble.as_deref().unwrap_or("no turn").replace(['\n', '|'], " ");
            return format!("| {name} | failed: {trouble} |\n");
        }
        let of = |what: fn(&Turn) -> f64| self.of(contender, what).median();
        let mut row = format!("| {name} | {:.1} | {:.2} ", of(|turn| turn.wall_s), self.share(contender));
        let attained = self.wall_s(Way::ByHand) / of(|turn| turn.wall_s);
        let cpu = of(|turn| turn.requester_s);
        let workers = of(|turn| turn.workers_s);
        // Writing to a string cannot fail.
        let _ = match tool.way() {
            Way::Alone => write!(row, "| | {cpu:.1} | | | | | | | "),
            Way::ByHand => write!(row, "| {attained:.2} | {cpu:.1} | | {workers:.1} | | | | | "),
            Way::Itself => write!(
                row,
                "| {} | {cpu:.1} | {:.1} + {:.1} | {workers:.1} | {:.1} | {:.1} | {:.1} | {:.0} | {} ",
                if attained.is_nan() { String::new() } else { format!("{attained:.2}") },
                of(Turn::command_ms),
                of(Turn::daemons_ms),
                of(|turn| turn.traffic.sent as f64 / 1e6),
                of(|turn| turn.traffic.received as f64 / 1e6),
                of(Turn::later_kb),
                of(|turn| turn.remote as f64),
                contender.turns.last().map(|turn| turn.objects.to_string()).unwrap_or_default()
            ),
        };
        let trouble = contender.trouble.as_ref().map(|trouble| format!(", then failed: {trouble}"));
        let _ = writeln!(
            row,
            "| {} of {}{} |",
            self.quiet(contender),
            contender.turns.len(),
            trouble.unwrap_or_default().replace(['\n', '|'], " ")
        );
        row
    }
}

impl Report {
    /// Adds what was found in one office with one project.
    pub(super) fn add(&mut self, section: Section) {
        self.sections.push(section);
    }

    /// All tables, with what the columns mean.
    pub(super) fn markdown(&self) -> String {
        let mut text = format!("{}.\n\n{EXPLAINED}", versions().collect::<Vec<_>>().join("; "));
        for section in &self.sections {
            text += &format!("\n{}", section.markdown());
        }
        text + &self.curve()
    }

    /// Share of the ideal by the number of hosts, if there is more than one number.
    fn curve(&self) -> String {
        let mut text = String::new();
        let mut names: Vec<&str> = self.sections.iter().map(|section| section.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let own: Vec<&Section> = self.sections.iter().filter(|section| section.name == name).collect();
            if own.len() < 2 {
                continue;
            }
            text +=
                &format!("\n### {name}: share of the ideal by the number of hosts\n\n| hosts | ideal s |");
            let tools = own[0].all.iter().filter(|contender| contender.tool.way() != Way::Alone);
            let tools: Vec<&str> = tools.map(|contender| contender.tool.name()).collect();
            text += &tools.iter().map(|tool| format!(" {tool} s | of ideal |")).collect::<String>();
            text += &format!("\n|---|---|{}\n", "---|---|".repeat(tools.len()));
            for section in own {
                text += &format!("| {} | {:.1} |", section.hosts.len(), section.ideal_s());
                for contender in section.all.iter().filter(|contender| contender.tool.way() != Way::Alone) {
                    let wall = section.of(contender, |turn| turn.wall_s).median();
                    text += &format!(" {wall:.1} | {:.2} |", section.share(contender));
                }
                text.push('\n');
            }
        }
        text
    }

    /// Puts the tables between the marks of `dir/performance.md`, and the pictures beside it.
    pub(super) fn write(&self, dir: &Path) -> Result<(), Failure> {
        let pictures = dir.join("bench");
        fs::create_dir_all(&pictures)?;
        for section in &self.sections {
            fs::write(pictures.join(section.picture_name()), section.picture())?;
        }
        let path = dir.join("performance.md");
        let document =
            fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let spliced = splice(&document, &self.markdown()).ok_or_else(|| {
            format!("{} lacks the line {}", path.display(), MARKS.join("or the line ").trim())
        })?;
        fs::write(&path, spliced)?;
        println!("written to {} and {}", path.display(), pictures.display());
        Ok(())
    }
}

/// The document with other text between the marks.
fn splice(document: &str, text: &str) -> Option<String> {
    let (before, rest) = document.split_once(MARKS[0])?;
    let (_, after) = rest.split_once(MARKS[1])?;
    Some(format!("{before}{}\n{}\n\n{}{after}", MARKS[0], text.trim(), MARKS[1]))
}

const EXPLAINED: &str = "\
*Of ideal*: the wall time of one machine with all the cores, divided by the tool's. *Of attainable*: the same with the time \
that these hosts take when nothing has to be sent, found or decided (*nothing between*): the benchmark itself runs one \
compile at a time in every host's control group, on the requester's files, the longest first. *Requester CPU*: all of the requester's \
cgroup, from before the build until 2 s after it. *For a compile*: of that, the median of the command itself (what the build \
system starts, and what that waits for) + the mean of the tool's daemons. *Sent*, *received*: what passed the requester's \
cable, with all headers. *Later*: sent for each compile after the first ten. *As local*: objects equal, byte by byte, to those \
of the bare compiler. *Quiet*: turns in which everything outside the office used no more than the quotas leave; figures are \
medians of these, or of all if there is none.\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let [begin, end] = MARKS;
        let document = format!("# A\n{begin}old\n{end}\nz\n");
        let expect = format!("# A\n{begin}\nnew\n\n{end}\nz\n");
        assert_eq!(splice(&document, "new\n").as_deref(), Some(expect.as_str()));
        assert_eq!(splice(&expect, "new").as_deref(), Some(expect.as_str()));
        assert_eq!(splice("no marks", "new"), None);
    }
}
