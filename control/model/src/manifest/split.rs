//! Cuts the text of a file into YAML documents, by lines alone: a line that begins with `---` cannot be part of a document's content.

/// The text of one document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Document<'a> {
    pub text: &'a str,
    /// Line of the file on which `text` begins, from 1.
    pub line: u64,
}

/// The documents that hold more than comments and markers.
pub fn documents(text: &str) -> Vec<Document<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut found = Vec::new();
    let mut current = Open::at(0, 1);
    let (mut offset, mut number) = (0, 1);
    for line in text.split_inclusive('\n') {
        if is_marker(line, "---") {
            found.extend(current.close(text, offset));
            if current.started || current.content || !current.directive {
                current = Open::at(offset, number);
            }
            current.started = true;
            current.content |= has_content(&line[3..]);
        } else if is_marker(line, "...") {
            found.extend(current.close(text, offset));
            current = Open::at(offset + line.len(), number + 1);
        } else if !current.started && line.starts_with('%') {
            current.directive = true;
        } else {
            current.content |= has_content(line);
        }
        offset += line.len();
        number += 1;
    }
    found.extend(current.close(text, text.len()));
    found
}

/// A document whose end is not found yet.
struct Open {
    offset: usize,
    line: u64,
    /// Its `---` was seen: the next one begins another document.
    started: bool,
    /// It has directives, which stand before its `---`.
    directive: bool,
    content: bool,
}

impl Open {
    fn at(offset: usize, line: u64) -> Open {
        Open { offset, line, started: false, directive: false, content: false }
    }

    fn close<'a>(&self, text: &'a str, end: usize) -> Option<Document<'a>> {
        self.content.then(|| Document { text: &text[self.offset..end], line: self.line })
    }
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn has_content(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with('#')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<(u64, &str)> {
        documents(text).into_iter().map(|document| (document.line, document.text)).collect()
    }

    #[test]
    fn documents_begin_at_markers_and_know_their_lines() {
        assert_eq!(lines("a: 1\n---\nb: 2\n--- # c\nc: 3"), [(1, "a: 1\n"), (2, "---\nb: 2\n"), (4, "--- # c\nc: 3")]);
    }

    #[test]
    fn empty_documents_are_not_counted() {
        assert_eq!(lines("---\n---\n# only words\n---\na: 1\n---\n"), [(4, "---\na: 1\n")]);
        assert_eq!(lines(""), []);
    }

    #[test]
    fn directives_belong_to_the_document_after_them() {
        assert_eq!(
            lines("%YAML 1.2\n---\na: 1\n...\n%YAML 1.2\n---\nb: 2\n"),
            [(1, "%YAML 1.2\n---\na: 1\n"), (5, "%YAML 1.2\n---\nb: 2\n")]
        );
    }

    #[test]
    fn words_before_a_marker_belong_to_no_document() {
        assert_eq!(lines("# words\n\n---\na: 1\n"), [(3, "---\na: 1\n")]);
    }

    #[test]
    fn only_whole_markers_at_the_start_of_a_line_count() {
        assert_eq!(lines("a: |\n  ---\n  x\nb: ----\n----: 1\n").len(), 1);
        assert_eq!(lines("\u{feff}--- {a: 1}\r\n---\r\nb: 2\r\n").len(), 2);
    }
}
