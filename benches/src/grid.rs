//! A table before it is text, Markdown or HTML.

use std::fmt::Write;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{Cell, CellAlignment, Table};

use crate::markup::Markup;

/// Columns of words. All others are numbers, and lean to the right.
const WORDS: [&str; 14] = [
    "mode", "who", "work", "class", "ends", "waits", "publish", "why", "promise", "wanted", "met",
    "beside", "pinning", "way",
];

/// A table with a title.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Grid {
    pub(crate) title: String,
    pub(crate) header: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Grid {
    /// An empty table.
    pub(crate) fn new(title: impl Into<String>, header: &[&str]) -> Self {
        let header = header.iter().map(|&column| column.to_owned()).collect();
        Self { title: title.into(), header, rows: Vec::new() }
    }

    /// Whether it has ratios to rivals, which a page shows beside its pictures.
    pub(crate) fn is_ratios(&self) -> bool {
        self.header.first().is_some_and(|column| column == "who")
    }

    fn is_words(&self, column: usize) -> bool {
        self.header.get(column).is_some_and(|name| WORDS.contains(&name.as_str()))
    }

    /// For a terminal, without the title.
    pub(crate) fn text(&self) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY);
        table.set_header(&self.header);
        for row in &self.rows {
            table.add_row(row.iter().enumerate().map(|(column, text)| {
                let words = self.is_words(column);
                let side = if words { CellAlignment::Left } else { CellAlignment::Right };
                Cell::new(text).set_alignment(side)
            }));
        }
        table.to_string()
    }

    /// For a page of Markdown, without the title.
    pub(crate) fn markdown(&self) -> String {
        let line = |cells: &mut dyn Iterator<Item = String>| {
            cells.fold("|".to_owned(), |line, cell| line + " " + &cell + " |") + "\n"
        };
        let mut text = line(&mut self.header.iter().map(|cell| cell_of_markdown(cell)));
        let rule = |column| if self.is_words(column) { ":---" } else { "---:" }.to_owned();
        text += &line(&mut (0..self.header.len()).map(rule));
        for row in &self.rows {
            text += &line(&mut row.iter().map(|cell| cell_of_markdown(cell)));
        }
        text
    }

    /// For a page of HTML, without the title.
    pub(crate) fn html(&self, markup: &mut Markup) {
        let side = |column| if self.is_words(column) { "words" } else { "number" };
        let line = |markup: &mut Markup, kind: &str, cells: &[String]| {
            markup.element("tr", &[], |markup| {
                for (column, cell) in cells.iter().enumerate() {
                    markup.words(kind, &[("class", side(column))], cell);
                }
            });
        };
        markup.element("div", &[("class", "scroll")], |markup| {
            markup.element("table", &[], |markup| {
                markup.element("thead", &[], |markup| line(markup, "th", &self.header));
                markup.element("tbody", &[], |markup| {
                    for row in &self.rows {
                        line(markup, "td", row);
                    }
                });
            });
        });
    }
}

/// A cell's text with what has a meaning in Markdown taken out of it.
fn cell_of_markdown(text: &str) -> String {
    let mut cell = String::new();
    for letter in text.chars() {
        match letter {
            '\n' | '\r' => cell.push(' '),
            '|' | '<' | '>' | '*' | '_' | '`' | '[' | ']' | '\\' => {
                // Writing to a string cannot fail.
                let _ = write!(cell, "\\{letter}");
            }
            _ => cell.push(letter),
        }
    }
    cell
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> Grid {
        let mut grid = Grid::new("title", &["bytes", "who"]);
        grid.rows.push(vec!["64".to_owned(), "a | <b>".to_owned()]);
        grid
    }

    #[test]
    fn a_cell_stays_one_cell_in_markdown() {
        let expected = "| bytes | who |\n| ---: | :--- |\n| 64 | a \\| \\<b\\> |\n";
        assert_eq!(grid().markdown(), expected);
    }

    #[test]
    fn a_cell_stays_text_in_html() {
        let mut markup = Markup::default();
        grid().html(&mut markup);
        let text = markup.finish();
        let parsed = roxmltree::Document::parse(&text).unwrap();
        let cells = parsed.descendants().filter(|node| node.has_tag_name("td"));
        let cells: Vec<_> = cells.map(|cell| (cell.attribute("class"), cell.text())).collect();
        assert_eq!(cells, [(Some("number"), Some("64")), (Some("words"), Some("a | <b>"))]);
    }
}
