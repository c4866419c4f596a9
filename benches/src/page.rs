//! Reports as a page: one HTML file that needs nothing from elsewhere, or the same as Markdown.
//!
//! Pure. A page is a list of blocks, written down once and rendered twice.

use crate::charts::{self, classes, size};
use crate::class::Class;
use crate::document::Document;
use crate::grid::Grid;
use crate::markup::Markup;
use crate::plan::Who;
use crate::plot::{Chart, STYLE};
use crate::report::{Kind, Report};
use crate::table;
use crate::targets::Target;
use crate::task::{Mode, Work};

/// The page's title.
const TITLE: &str = "Laneway: measured on this machine";
/// What the page looks like besides its pictures.
const PAGE_STYLE: &str = "
body { background: var(--paper); color: var(--ink); font-family: sans-serif; line-height: 1.45;
  max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
pre { white-space: pre-wrap; border-left: 3px solid var(--rule); padding-left: 0.8rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; margin-bottom: 1.5rem; }
th, td { border-bottom: 1px solid var(--rule); padding: 0.2rem 0.6rem; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.words { text-align: left; }
svg { width: 100%; height: auto; margin: 1rem 0; }
";
/// How everything was measured, a paragraph each.
const METHOD: [&str; 6] = [
    "Latency is half a round trip with one message in flight; the clock is read while the message \
     is on its way. Throughput counts what arrives. The first tenth of each measurement is thrown \
     away.",
    "Mode `all` writes and reads every byte of every message and checks its number and its sum; \
     mode `header` touches eight bytes, so that the payload stays where it is.",
    "One cache line travels between the same two cpus before and after each measurement: the \
     hand-over. No ring beats it, and it tells where the cpus were: `smt` up to 25 ns, `near` up \
     to 150 ns, `far` up to 1 us, and above that `busy`: others had the cpus, and nothing is \
     concluded. A measurement counts only if both hand-overs fall into one class, and figures are \
     compared only within a class.",
    "Ratios are taken inside a round and reported as the median over rounds. Of several ring \
     depths the best of the round counts, for each side.",
    "Rivals run between two processes of their own where they can cross that border, else \
     between two threads; the tables say which. Each is used as its documentation recommends.",
    "The last ten thousandth of the latencies is not drawn: it holds timer ticks and the host.",
];

/// A part of a page.
#[derive(Debug)]
pub(crate) enum Block {
    /// A heading of the first or second rank.
    Heading(u8, String),
    Words(String),
    /// Text with line breaks of its own.
    Lines(String),
    Grid(Grid),
    /// Drawn in HTML; Markdown has the figures in its tables.
    Chart(Chart),
}

impl Block {
    /// The promises, as they stand.
    pub(crate) fn promises(targets: &[Target]) -> Self {
        let columns = ["promise", "class", "rounds", "found", "wanted", "met"];
        let mut grid = Grid::new("Promises", &columns);
        for target in targets {
            grid.rows.push(vec![
                target.name.clone(),
                target.class.to_string(),
                target.rounds.to_string(),
                format!("{:.2}", target.found),
                target.wanted.clone(),
                if target.met { "yes" } else { "NO" }.to_owned(),
            ]);
        }
        Self::Grid(grid)
    }
}

/// The page as HTML that is XML, too.
pub(crate) fn html(documents: &[Document]) -> String {
    let mut markup = Markup::new("<!DOCTYPE html>\n");
    let language = [("lang", "en"), ("xmlns", "http://www.w3.org/1999/xhtml")];
    markup.element("html", &language, |markup| {
        markup.element("head", &[], |markup| {
            markup.leaf("meta", &[("charset", "utf-8")]);
            let view = "width=device-width, initial-scale=1";
            markup.leaf("meta", &[("name", "viewport"), ("content", view)]);
            markup.words("title", &[], TITLE);
            markup.words("style", &[], &format!("{STYLE}{PAGE_STYLE}"));
        });
        markup.element("body", &[], |markup| {
            markup.words("h1", &[], TITLE);
            for block in blocks(documents) {
                match block {
                    Block::Heading(1, text) => markup.words("h2", &[], &text),
                    Block::Heading(_, text) => markup.words("h3", &[], &text),
                    Block::Words(text) => markup.words("p", &[], &text),
                    Block::Lines(text) => markup.words("pre", &[], &text),
                    Block::Chart(chart) => chart.draw(markup),
                    Block::Grid(grid) => {
                        markup.words("h3", &[], &grid.title);
                        grid.html(markup);
                    }
                }
            }
        });
    });
    markup.finish()
}

/// The page as Markdown, without its pictures.
pub(crate) fn markdown(documents: &[Document]) -> String {
    let mut text = format!("# {TITLE}\n");
    for block in blocks(documents) {
        let part = match block {
            Block::Heading(1, text) => format!("## {text}\n"),
            Block::Heading(_, text) => format!("### {text}\n"),
            Block::Words(text) => format!("{text}\n"),
            Block::Lines(text) => format!("```text\n{}\n```\n", text.trim_end()),
            Block::Chart(_) => continue,
            Block::Grid(grid) => format!("### {}\n\n{}", grid.title, grid.markdown()),
        };
        text += "\n";
        text += &part;
    }
    text
}

/// The page's pictures, each with a name for a file of its own.
pub(crate) fn pictures(documents: &[Document]) -> Vec<(String, String)> {
    let charts = blocks(documents).into_iter().filter_map(|block| match block {
        Block::Chart(chart) => Some(chart),
        _ => None,
    });
    let named = charts.enumerate().map(|(index, chart)| {
        let letter = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '-' };
        let title: String = chart.title.to_lowercase().chars().map(letter).collect();
        let words: Vec<&str> = title.split('-').filter(|word| !word.is_empty()).collect();
        (format!("{:02}-{}.svg", index + 1, words.join("-")), chart.picture())
    });
    named.collect()
}

fn blocks(documents: &[Document]) -> Vec<Block> {
    let mut blocks = Vec::new();
    let lanes = || {
        documents.iter().filter_map(|document| match document {
            Document::Lanes(report) => Some(&**report),
            _ => None,
        })
    };
    for report in lanes() {
        let name = match report.kind {
            Kind::Run => "Lanes beside the machine's own limits",
            Kind::Compare => "Lanes beside their rivals",
        };
        blocks.push(Block::Heading(1, name.to_owned()));
        blocks.push(Block::Lines(table::heading(report)));
        if !report.targets.is_empty() {
            blocks.push(Block::promises(&report.targets));
        }
        for class in classes(report) {
            of_class(report, class, &mut blocks);
        }
    }
    blocks.extend(documents.iter().flat_map(Document::blocks));
    blocks.push(Block::Heading(1, "Method".to_owned()));
    blocks.extend(METHOD.map(|text| Block::Words(text.to_owned())));
    for (index, report) in lanes().enumerate() {
        blocks.push(Block::Heading(1, format!("All figures, part {}", index + 1)));
        // The ratios stand beside the pictures already.
        let grids = table::grids(report).into_iter().filter(|grid| !grid.is_ratios());
        blocks.extend(grids.map(Block::Grid));
    }
    blocks
}

/// The pictures of one class, and the ratios that they show.
fn of_class(report: &Report, class: Class, blocks: &mut Vec<Block>) {
    let mut charts = Vec::new();
    if report.kind == Kind::Run {
        charts.push(charts::lanes_in(report, class));
    } else {
        let mut sizes: Vec<usize> = report.rows.iter().map(|row| row.cell.bytes).collect();
        sizes.sort_unstable();
        sizes.dedup();
        charts.extend(sizes.into_iter().map(|bytes| charts::rivals(report, class, bytes)));
    }
    charts.push(charts::latency_by_size(report, class));
    charts.push(charts::throughput_by_size(report, Work::Stream, class));
    charts.push(charts::throughput_by_size(report, Work::Batch, class));
    charts.extend(charts::throughput_by_readers(report, class));
    charts.retain(|chart| !chart.series.is_empty());
    let mut grids = vec![limits(report, class), table::duels(report, class)];
    grids.retain(|grid| !grid.rows.is_empty());
    if !charts.is_empty() || !grids.is_empty() {
        blocks.push(Block::Heading(2, format!("Cpus in class {class}")));
    }
    blocks.extend(charts.into_iter().map(Block::Chart));
    blocks.extend(grids.into_iter().map(Block::Grid));
}

/// The lane beside the machine's own limits: hand-overs, and one core's copy.
fn limits(report: &Report, class: Class) -> Grid {
    let columns = ["bytes", "p50 ns", "hand-overs", "stream GB/s", "of memcpy"];
    let title = format!("Class {class}: a lane and the limits of the machine");
    let mut grid = Grid::new(title, &columns);
    let find = |work, who, bytes| {
        let rows = report.rows.iter().filter(move |row| {
            (row.class, row.cell.work, row.cell.who) == (class, work, who)
                && (row.cell.bytes, row.cell.mode, row.cell.readers) == (bytes, Mode::All, 1)
        });
        rows.max_by(|a, b| {
            let rate = |row: &&crate::summary::Row| row.throughput.map_or(0.0, |t| t.bytes_per_s);
            rate(a).total_cmp(&rate(b))
        })
    };
    let mut sizes: Vec<usize> = report.rows.iter().map(|row| row.cell.bytes).collect();
    sizes.sort_unstable();
    sizes.dedup();
    for bytes in sizes {
        let latency = find(Work::Latency, Who::Laneway, bytes).and_then(|row| row.latency.as_ref());
        let rate = |work, who| find(work, who, bytes).and_then(|row| row.throughput);
        let stream = rate(Work::Stream, Who::Laneway).map(|rate| rate.bytes_per_s);
        let copied = rate(Work::Copy, Who::Memcpy).map(|rate| rate.bytes_per_s);
        if latency.is_none() && stream.is_none() {
            continue;
        }
        let shown = |value: Option<f64>| value.map_or_else(String::new, |v| format!("{v:.2}"));
        grid.rows.push(vec![
            size(bytes),
            latency.map_or_else(String::new, |latency| format!("{:.0}", latency.p50_ns)),
            shown(latency.map(|latency| latency.times_hand_over)),
            shown(stream.map(|rate| rate / 1e9)),
            shown(stream.zip(copied).map(|(stream, copied)| stream / copied)),
        ]);
    }
    grid
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example::example;

    fn lanes(report: Report) -> Document {
        Document::Lanes(Box::new(report))
    }

    fn page() -> String {
        let run = Report { kind: Kind::Run, ..example() };
        html(&[example(), run].map(lanes))
    }

    #[test]
    fn the_page_is_well_formed_and_has_every_part() {
        let page = page();
        let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
        let parsed = roxmltree::Document::parse_with_options(&page, options).unwrap();
        let count =
            |name: &str| parsed.descendants().filter(|node| node.tag_name().name() == name).count();
        assert!(count("svg") >= 5, "{}", count("svg"));
        assert!(count("table") >= 6, "{}", count("table"));
        for expected in ["Test & <Machine>", "no such <socket>", "10.00", "hand-over of a line"] {
            let found = |node: roxmltree::Node<'_, '_>| {
                node.text().is_some_and(|text| text.contains(expected))
            };
            assert!(parsed.descendants().any(found), "{expected}");
        }
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere_and_follows_the_readers_screen() {
        let page = page();
        assert!(page.contains("prefers-color-scheme: dark"));
        for foreign in ["<script", "src=", "<link", "@import", "url("] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        let names = ["http://www.w3.org/2000/svg", "http://www.w3.org/1999/xhtml"];
        let rest = names.iter().fold(page, |page, name| page.replace(name, ""));
        assert!(!rest.contains("http"));
    }

    #[test]
    fn every_picture_has_a_file_name_of_its_own() {
        let pictures = pictures(&[example(), example()].map(lanes));
        let names: std::collections::BTreeSet<&str> =
            pictures.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names.len(), pictures.len());
        assert!(names.contains("01-one-way-latency-at-64-b-class-near.svg"), "{names:?}");
    }

    #[test]
    fn markdown_says_the_same_in_tables() {
        let text = markdown(&[lanes(example())]);
        for expected in ["## Method", "no such \\<socket\\>", "| 10.00 |", "Test & <Machine>"] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
    }

    #[test]
    fn a_page_of_nothing_still_tells_the_method() {
        assert!(html(&[]).contains("half a round trip"));
        assert!(markdown(&[]).contains("## Method"));
    }
}
