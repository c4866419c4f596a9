//! A writer of XML, and of the HTML that is XML too: what is opened is closed, what is text is
//! escaped.

/// Elements and text, written one after the other.
#[derive(Debug, Default)]
pub(crate) struct Markup {
    text: String,
}

impl Markup {
    /// Starts with `prologue`, as it is.
    pub(crate) fn new(prologue: &str) -> Self {
        Self { text: prologue.to_owned() }
    }

    /// An element with whatever `inside` writes.
    pub(crate) fn element(
        &mut self,
        name: &str,
        attributes: &[(&str, &str)],
        inside: impl FnOnce(&mut Self),
    ) {
        self.open(name, attributes);
        self.text.push('>');
        inside(self);
        self.text.push_str("</");
        self.text.push_str(name);
        self.text.push_str(">\n");
    }

    /// An element that has text in it and nothing else.
    pub(crate) fn words(&mut self, name: &str, attributes: &[(&str, &str)], text: &str) {
        self.element(name, attributes, |markup| markup.escaped(text));
    }

    /// An element without content. In HTML only those may have none that never have any.
    pub(crate) fn leaf(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.open(name, attributes);
        self.text.push_str("/>\n");
    }

    /// What was written.
    pub(crate) fn finish(self) -> String {
        self.text
    }

    fn open(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.text.push('<');
        self.text.push_str(name);
        for (attribute, value) in attributes {
            self.text.push(' ');
            self.text.push_str(attribute);
            self.text.push_str("=\"");
            self.escaped(value);
            self.text.push('"');
        }
    }

    /// Text, with what has a meaning in XML replaced.
    pub(crate) fn escaped(&mut self, text: &str) {
        for letter in text.chars() {
            match letter {
                '<' => self.text.push_str("&lt;"),
                '>' => self.text.push_str("&gt;"),
                '&' => self.text.push_str("&amp;"),
                '"' => self.text.push_str("&quot;"),
                // XML has no name for these, and a terminal's colours mean nothing here.
                _ if letter.is_control() && !letter.is_whitespace() => self.text.push('\u{fffd}'),
                _ => self.text.push(letter),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_anybody_says_cannot_leave_its_element() {
        let mut markup = Markup::new("");
        markup.element("p", &[("title", "\"a\" <b>")], |markup| {
            markup.escaped("</p><script>1 && \u{1b}[0m</script>");
            markup.leaf("br", &[]);
        });
        let text = markup.finish();
        let parsed = roxmltree::Document::parse(&text).unwrap();
        let root = parsed.root_element();
        assert_eq!(root.attribute("title"), Some("\"a\" <b>"));
        assert_eq!(root.text(), Some("</p><script>1 && \u{fffd}[0m</script>"));
        assert_eq!(root.children().filter(roxmltree::Node::is_element).count(), 1);
    }
}
