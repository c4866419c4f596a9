//! Charts as SVG: curves over two axes of which one at least is logarithmic.
//!
//! Colours are classes of [`STYLE`], so that a picture follows the reader's light or dark screen,
//! alone or within a page.

use crate::markup::Markup;

const WIDTH: f64 = 920.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 265.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// Least distance of two labels, one above the other.
const LABEL: f64 = 15.0;
/// Colours of [`STYLE`]; further curves repeat them, dashed.
const COLOURS: usize = 8;
/// Where an axis of nines has a mark: quantile and label.
const MARKS: [(f64, &str); 5] =
    [(0.0, "0"), (0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %")];
/// Last quantile shown; beyond it is the maximum, which is the host's and not the ring's.
const LAST: f64 = 0.9999;

/// What pictures and pages look like. The curves' colours are told apart also by the colour-blind
/// (Okabe and Ito, 2008; lighter on dark).
pub(crate) const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #ffffff; --rule: #dddddd;
  --k0: #0072b2; --k1: #d55e00; --k2: #009e73; --k3: #b8578f; --k4: #a97800; --k5: #2f8fc4;
  --k6: #000000; --k7: #777777; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e4e4; --paper: #15171b; --rule: #3a3d44;
    --k0: #58aee6; --k1: #ff8a4c; --k2: #2fcf9f; --k3: #e39bc6; --k4: #f0b93a; --k5: #8cd0f5;
    --k6: #ffffff; --k7: #a5a5a5; } }
svg text { fill: var(--ink); font-family: sans-serif; font-size: 12px; }
svg .title { font-size: 14px; }
svg .paper { fill: var(--paper); }
svg .rule { stroke: var(--rule); }
svg .limit { stroke: var(--ink); stroke-dasharray: 2 4; }
svg polyline { fill: none; stroke-width: 2; }
svg circle { fill: var(--paper); stroke-width: 2; }
svg .first { stroke-width: 3.5; }
svg .dashed { stroke-dasharray: 7 4; }
svg .k0 { stroke: var(--k0); } svg .k1 { stroke: var(--k1); } svg .k2 { stroke: var(--k2); }
svg .k3 { stroke: var(--k3); } svg .k4 { stroke: var(--k4); } svg .k5 { stroke: var(--k5); }
svg .k6 { stroke: var(--k6); } svg .k7 { stroke: var(--k7); }
";

/// How values lie along an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Axis {
    /// Quantiles by their nines, to the right of which the rare ones are.
    Nines,
    /// Message sizes in bytes, each doubling as wide as the next.
    Bytes,
    /// Counts, each doubling as wide as the next.
    Count,
    /// Nanoseconds, each power of ten as high as the next.
    Nanos,
    /// Bytes per second, each power of ten as high as the next.
    Rate,
}

/// One curve.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
    /// Drawn bolder than the others.
    pub(crate) first: bool,
}

/// A chart.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) series: Vec<Series>,
    /// A height that nothing can pass, and its name.
    pub(crate) limit: Option<(f64, String)>,
}

impl Chart {
    /// A picture that stands alone.
    pub(crate) fn picture(&self) -> String {
        let mut markup = Markup::default();
        self.draw(&mut markup);
        markup.finish()
    }

    /// The picture as an element. Its own style makes no difference within a page that has it.
    pub(crate) fn draw(&self, markup: &mut Markup) {
        let scale = Scale::of(self);
        let view = format!("0 0 {WIDTH} {HEIGHT}");
        let attributes =
            [("xmlns", "http://www.w3.org/2000/svg"), ("viewBox", &view), ("role", "img")];
        markup.element("svg", &attributes, |markup| {
            markup.words("title", &[], &self.title);
            markup.words("style", &[], STYLE);
            let size = [("width", WIDTH.to_string()), ("height", HEIGHT.to_string())];
            let size = [("width", &*size[0].1), ("height", &*size[1].1), ("class", "paper")];
            markup.leaf("rect", &size);
            text(markup, (LEFT, 22.0), "start", "title", &self.title);
            self.axes(markup, &scale);
            for (index, series) in self.series.iter().enumerate() {
                curve(markup, &scale, index, series);
            }
            self.labels(markup, &scale);
        });
    }

    fn axes(&self, markup: &mut Markup, scale: &Scale) {
        for (value, label) in scale.x.marks() {
            let x = scale.x.place(value, LEFT, WIDTH - RIGHT);
            line(markup, "rule", (x, TOP), (x, HEIGHT - BOTTOM));
            text(markup, (x, HEIGHT - BOTTOM + 18.0), "middle", "", &label);
        }
        for (value, label) in scale.y.marks() {
            let y = scale.y.place(value, HEIGHT - BOTTOM, TOP);
            line(markup, "rule", (LEFT, y), (WIDTH - RIGHT, y));
            text(markup, (LEFT - 6.0, y + 4.0), "end", "", &label);
        }
        if let Some((value, _)) = self.limit {
            let y = scale.y.place(value, HEIGHT - BOTTOM, TOP);
            line(markup, "limit", (LEFT, y), (WIDTH - RIGHT, y));
        }
    }

    /// The curves' names at their right ends, moved apart where they would cover each other.
    fn labels(&self, markup: &mut Markup, scale: &Scale) {
        let height = |value| scale.y.place(value, HEIGHT - BOTTOM, TOP);
        let limit = self.limit.iter().map(|(value, name)| (height(*value), None, name.as_str()));
        let ends = self.series.iter().enumerate().filter_map(|(index, series)| {
            let last = shown(series, self.x).last()?;
            Some((height(last.1), Some(index), series.name.as_str()))
        });
        let mut labels: Vec<(f64, Option<usize>, &str)> = limit.chain(ends).collect();
        labels.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut lowest = TOP - LABEL;
        for (wanted, index, name) in labels {
            let y = wanted.max(lowest + LABEL);
            lowest = y;
            let x = WIDTH - RIGHT;
            let class = index.map_or_else(|| "limit".to_owned(), class);
            line(markup, &class, (x + 4.0, wanted), (x + 22.0, y));
            text(markup, (x + 26.0, y + 4.0), "start", "", name);
        }
    }
}

/// From values to places.
#[derive(Debug)]
struct Scale {
    x: Range,
    y: Range,
}

/// An axis from its lowest to its highest value, both in the axis's own measure.
#[derive(Debug)]
struct Range {
    axis: Axis,
    low: f64,
    high: f64,
}

impl Scale {
    fn of(chart: &Chart) -> Self {
        let points = || chart.series.iter().flat_map(|series| shown(series, chart.x));
        let limit = chart.limit.iter().map(|limit| limit.0);
        Self {
            x: Range::around(chart.x, points().map(|point| point.0)),
            y: Range::around(chart.y, points().map(|point| point.1).chain(limit)),
        }
    }
}

impl Range {
    /// Whole marks around all values; any range around none.
    fn around(axis: Axis, values: impl Iterator<Item = f64> + Clone) -> Self {
        let measures = values.map(|value| axis.measure(value)).filter(|value| value.is_finite());
        let low = measures.clone().fold(f64::INFINITY, f64::min);
        let high = measures.fold(f64::NEG_INFINITY, f64::max);
        let (low, high) = match axis {
            Axis::Nines => (0.0, axis.measure(LAST)),
            _ if low > high => (0.0, 1.0),
            _ => (low.floor(), high.ceil().max(low.floor() + 1.0)),
        };
        Self { axis, low, high }
    }

    fn place(&self, value: f64, from: f64, to: f64) -> f64 {
        let measure = self.axis.measure(value).clamp(self.low, self.high);
        from + (to - from) * (measure - self.low) / (self.high - self.low)
    }

    /// Values with a mark, and its text.
    fn marks(&self) -> Vec<(f64, String)> {
        if self.axis == Axis::Nines {
            return MARKS.map(|(value, label)| (value, label.to_owned())).to_vec();
        }
        let doubling = matches!(self.axis, Axis::Bytes | Axis::Count);
        let step = if doubling && self.high - self.low > 8.0 { 2.0 } else { 1.0 };
        let mut marks = Vec::new();
        let mut at = self.low;
        while at <= self.high {
            let value = self.axis.value(at);
            marks.push((value, self.axis.label(value)));
            at += step;
        }
        marks
    }
}

impl Axis {
    /// Where a value lies: equal steps here are equal steps on the picture.
    fn measure(self, value: f64) -> f64 {
        match self {
            Self::Nines => -(1.0 - value.min(LAST)).log10(),
            Self::Bytes | Self::Count => value.max(1.0).log2(),
            Self::Nanos | Self::Rate => value.max(1.0).log10(),
        }
    }

    fn value(self, measure: f64) -> f64 {
        match self {
            Self::Nines => 1.0 - 10f64.powf(-measure),
            Self::Bytes | Self::Count => measure.exp2(),
            Self::Nanos | Self::Rate => 10f64.powf(measure),
        }
    }

    fn label(self, value: f64) -> String {
        let steps: &[(f64, &str)] = match self {
            Self::Nines => &[],
            Self::Count => &[(1.0, "")],
            Self::Bytes => &[(1_048_576.0, "MiB"), (1024.0, "KiB"), (1.0, "B")],
            Self::Nanos => &[(1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns")],
            Self::Rate => &[(1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"), (1.0, "B/s")],
        };
        let step = steps.iter().find(|(unit, _)| value >= unit * 0.999);
        let text = |&(unit, name): &(f64, &str)| format!("{:.0} {name}", value / unit);
        step.map_or_else(|| value.to_string(), text).trim_end().to_owned()
    }
}

/// The points that the picture shows.
fn shown(series: &Series, x: Axis) -> impl Iterator<Item = &(f64, f64)> + Clone {
    series.points.iter().filter(move |point| x != Axis::Nines || point.0 <= LAST)
}

fn curve(markup: &mut Markup, scale: &Scale, index: usize, series: &Series) {
    let places = || {
        shown(series, scale.x.axis).map(|(x, y)| {
            let x = scale.x.place(*x, LEFT, WIDTH - RIGHT);
            let y = scale.y.place(*y, HEIGHT - BOTTOM, TOP);
            (format!("{x:.1}"), format!("{y:.1}"))
        })
    };
    let points: Vec<String> = places().map(|(x, y)| format!("{x},{y}")).collect();
    let bold = if series.first { format!("{} first", class(index)) } else { class(index) };
    markup.leaf("polyline", &[("class", &bold), ("points", &points.join(" "))]);
    // Sizes are few and chosen; quantiles are many and lie where they lie.
    if scale.x.axis == Axis::Bytes {
        let colour = colour(index);
        for (x, y) in places() {
            let places = [("class", &*colour), ("cx", &x), ("cy", &y), ("r", "3")];
            markup.leaf("circle", &places);
        }
    }
}

fn class(index: usize) -> String {
    let colour = colour(index);
    if index < COLOURS { colour } else { format!("{colour} dashed") }
}

fn colour(index: usize) -> String {
    format!("k{}", index % COLOURS)
}

fn line(markup: &mut Markup, class: &str, from: (f64, f64), to: (f64, f64)) {
    let [x1, y1, x2, y2] = [from.0, from.1, to.0, to.1].map(|place| format!("{place:.1}"));
    let places = [("class", class), ("x1", &x1), ("y1", &y1), ("x2", &x2), ("y2", &y2)];
    markup.leaf("line", &places);
}

fn text(markup: &mut Markup, at: (f64, f64), anchor: &str, class: &str, text: &str) {
    let (x, y) = (format!("{:.1}", at.0), format!("{:.1}", at.1));
    markup.words("text", &[("x", &x), ("y", &y), ("text-anchor", anchor), ("class", class)], text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(series: Vec<Series>) -> Chart {
        let limit = Some((30.0, "a & b".to_owned()));
        Chart { title: "latency < 1".to_owned(), x: Axis::Nines, y: Axis::Nanos, series, limit }
    }

    fn series(name: &str, points: &[(f64, f64)]) -> Series {
        Series { name: name.to_owned(), points: points.to_vec(), first: false }
    }

    #[test]
    fn a_picture_is_xml_and_has_every_curve_within_its_frame() {
        let many = (0..10).map(|index| series(&format!("<{index}>"), &[(0.0, 40.0), (0.9, 90.0)]));
        let svg = chart(many.collect()).picture();
        let parsed = roxmltree::Document::parse(&svg).unwrap();
        let curves = parsed.descendants().filter(|node| node.has_tag_name("polyline"));
        let mut count = 0;
        for curve in curves {
            count += 1;
            for point in curve.attribute("points").unwrap().split(' ') {
                let (x, y) = point.split_once(',').unwrap();
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                assert!((LEFT..=WIDTH - RIGHT).contains(&x), "{point}");
                assert!((TOP..=HEIGHT - BOTTOM).contains(&y), "{point}");
            }
        }
        assert_eq!(count, 10);
        for index in 0..10 {
            let name = format!("<{index}>");
            assert!(parsed.descendants().any(|node| node.text() == Some(&name)), "{name}");
        }
    }

    #[test]
    fn labels_of_equal_curves_do_not_cover_each_other() {
        let same = [(0.0, 40.0), (0.9, 90.0)];
        let svg = chart(vec![series("one", &same), series("two", &same)]).picture();
        let parsed = roxmltree::Document::parse(&svg).unwrap();
        let height = |name: &str| -> f64 {
            let label = parsed.descendants().find(|node| node.text() == Some(name)).unwrap();
            let label = if label.is_text() { label.parent().unwrap() } else { label };
            label.attribute("y").unwrap().parse().unwrap()
        };
        assert!((height("two") - height("one")).abs() >= LABEL);
    }

    #[test]
    fn the_maximum_is_not_shown_and_nothing_at_all_is_still_a_picture() {
        let svg = chart(vec![series("one", &[(0.5, 40.0), (1.0, 1e9)])]).picture();
        assert!(!svg.contains(" ms<") && !svg.contains(" s<"), "{svg}");
        let nothing = chart(Vec::new()).picture();
        assert!(roxmltree::Document::parse(&nothing).is_ok());
    }
}
