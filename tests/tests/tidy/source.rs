//! Rust text cut into what is code and what is comment, as far as tidy has to know.

use std::fs;
use std::path::Path;

/// One file of the tree.
pub(crate) struct Source {
    /// Path below the root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
    /// The text with comments and literals blanked; lines stay where they are.
    pub(crate) code: String,
}

/// Every file with one of the extensions, in order of the paths. Build outputs are left out.
pub(crate) fn tree(root: &Path, extensions: &[&str]) -> Vec<Source> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("folder").map(|entry| entry.expect("entry")) {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let built = ["target", ".git", "node_modules", "__pycache__"].contains(&name.as_str());
            if path.is_symlink() || built || name.contains("venv") {
                continue;
            }
            let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if extensions.contains(&extension.as_str()) {
                let text = fs::read_to_string(&path).expect("text");
                let below = path.strip_prefix(root).expect("below the root");
                let path = below.to_string_lossy().into_owned();
                let code = if path.ends_with(".rs") { code_of(&text) } else { text.clone() };
                files.push(Source { path, text, code });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether `text` has `word` as a word of its own.
pub(crate) fn names(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + word.len()..]);
        !before.ends_with(is_word) && !after.starts_with(is_word)
    })
}

/// The text with comments, strings and characters blanked.
pub(crate) fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let len = literal_len(rest, code.chars().last());
        if len == 0 {
            code.push(next);
            rest = &rest[next.len_utf8()..];
        } else {
            let (literal, after) = rest.split_at(len);
            code.extend(literal.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = after;
        }
    }
    code
}

/// Length of the comment or literal that `text` starts with; 0 if it starts with code.
fn literal_len(text: &str, before: Option<char>) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return block_comment_len(text);
    }
    if let Some(rest) = text.strip_prefix('"') {
        return 1 + quoted_len(rest, '"');
    }
    if let Some(rest) = text.strip_prefix('\'') {
        // A lifetime has no closing quote where a character has one.
        let escaped = rest.starts_with('\\');
        let closed = rest.chars().nth(1) == Some('\'');
        return if escaped || closed { 1 + quoted_len(rest, '\'') } else { 0 };
    }
    if text.starts_with('r') && !before.is_some_and(|c| is_word(c) && c != 'b') {
        return raw_len(text).unwrap_or(0);
    }
    0
}

fn block_comment_len(text: &str) -> usize {
    let (mut at, mut depth) = (2, 1);
    while depth > 0 && at < text.len() {
        let rest = &text[at..];
        let step = match (rest.starts_with("/*"), rest.starts_with("*/")) {
            (true, _) => (2, 1),
            (_, true) => (2, -1),
            _ => (rest.chars().next().map_or(1, char::len_utf8), 0),
        };
        (at, depth) = (at + step.0, depth + step.1);
    }
    at
}

/// Up to and with the closing quote.
fn quoted_len(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if c == quote && !escaped {
            return at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    text.len()
}

/// Length of a raw string that `text` starts with.
fn raw_len(text: &str) -> Option<usize> {
    let hashes = text[1..].bytes().take_while(|byte| *byte == b'#').count();
    let start = 1 + hashes;
    let body = text[start..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    Some(start + 1 + body.find(&close)? + close.len())
}

/// A function with its lines, counted from 1.
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) first: usize,
    pub(crate) last: usize,
}

/// The functions of some code, outer ones before inner ones.
pub(crate) fn functions(code: &str) -> Vec<Function> {
    let line_of = |at: usize| code[..at].matches('\n').count() + 1;
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let name: String = code[at + 3..].chars().take_while(|c| is_word(*c)).collect();
        if code[..at].ends_with(is_word) || name.is_empty() {
            continue;
        }
        if let Some(end) = body_end(code, at) {
            found.push(Function { name, first: line_of(at), last: line_of(end) });
        }
    }
    found
}

/// Where the body of the item that starts at `at` ends; `None` for an item without a body.
fn body_end(code: &str, at: usize) -> Option<usize> {
    let (mut nested, mut braces) = (0, 0);
    for (offset, c) in code[at..].char_indices() {
        match c {
            '(' | '[' => nested += 1,
            ')' | ']' => nested -= 1,
            ';' if nested == 0 && braces == 0 => return None,
            '{' => braces += 1,
            '}' => {
                braces -= 1;
                if braces == 0 {
                    return Some(at + offset);
                }
            }
            _ => {}
        }
    }
    None
}

/// The code without its `#[cfg(test)] mod …`.
pub(crate) fn without_tests(code: &str) -> String {
    let mut left = String::new();
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        let after = &rest[at + "#[cfg(test)]".len()..];
        let module = after.trim_start().trim_start_matches("pub(crate) ").starts_with("mod ");
        let end = body_end(after, 0).filter(|_| module);
        left.push_str(&rest[..at]);
        rest = end.map_or(after, |end| &after[end + 1..]);
    }
    left.push_str(rest);
    left
}

/// Every path that the code imports, with the groups taken apart.
pub(crate) fn imports(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let starts = code[..at].trim_end_matches([' ', '\t']);
        let visible = starts.ends_with("pub") || starts.ends_with(')');
        if !(starts.is_empty() || starts.ends_with(['\n', '{', ';', '}']) || visible) {
            continue;
        }
        if let Some(end) = code[at..].find(';') {
            expand("", &code[at + 4..at + end], &mut paths);
        }
    }
    paths
}

/// Takes `a::{b, c::{d}}` apart.
fn expand(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((head, group)) = tree.split_once('{') else {
        let leaf = tree.strip_suffix("self").unwrap_or(tree);
        paths.push(format!("{prefix}{leaf}"));
        return;
    };
    let group = group.trim_end().strip_suffix('}').unwrap_or(group);
    let prefix = format!("{prefix}{}", head.trim());
    let (mut depth, mut start) = (0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&prefix, &group[start..at], paths);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !group[start..].trim().is_empty() {
        expand(&prefix, &group[start..], paths);
    }
}

/// Comments of consecutive lines as one text each, with the number of their first line.
pub(crate) fn blocks_of_comments(text: &str) -> Vec<(usize, String)> {
    let mut blocks: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (index, line) in text.lines().enumerate() {
        let Some(comment) = line.trim_start().strip_prefix("//") else {
            open = false;
            continue;
        };
        let comment = comment.trim_start_matches(['/', '!']);
        match blocks.last_mut() {
            Some((_, block)) if open => block.push_str(comment),
            _ => blocks.push((index + 1, comment.to_owned())),
        }
        open = true;
    }
    blocks
}
