//! Text tables: columns as wide as their widest cell, numbers to the right.

use std::fmt::Write;

/// Rows of cells under a header.
#[derive(Debug)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new<const N: usize>(header: [&str; N]) -> Table {
        Table { header: header.map(str::to_owned).to_vec(), rows: Vec::new() }
    }

    /// A row of as many cells as the header has.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.header.len());
        self.rows.push(cells.to_vec());
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The text, each line ended.
    pub fn render(&self) -> String {
        let columns = self.header.len();
        let width = |column: usize| self.lines().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let numeric: Vec<bool> = (0..columns).map(|column| self.is_numeric(column)).collect();
        let mut text = String::new();
        for line in self.lines() {
            let mut written = String::new();
            for (column, cell) in line.iter().enumerate() {
                // Writing to a String cannot fail.
                let _ = if numeric[column] {
                    write!(written, "{cell:>width$}  ", width = widths[column])
                } else {
                    write!(written, "{cell:<width$}  ", width = widths[column])
                };
            }
            text.push_str(written.trim_end());
            text.push('\n');
        }
        text
    }

    fn lines(&self) -> impl Iterator<Item = &Vec<String>> {
        std::iter::once(&self.header).chain(&self.rows)
    }

    fn is_numeric(&self, column: usize) -> bool {
        let number =
            |cell: &str| cell.is_empty() || cell == "-" || cell.starts_with(|c: char| c.is_ascii_digit()) && !cell.contains([':', '.']);
        !self.rows.is_empty() && self.rows.iter().all(|row| number(&row[column]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(["NAME", "PACKETS", "ADDRESS"]);
        table.row(["a".into(), "1".into(), "192.0.2.1:80".into()]);
        table.row(["longer".into(), "12345678".into(), "-".into()]);
        assert_eq!(table.render(), "NAME     PACKETS  ADDRESS\na              1  192.0.2.1:80\nlonger  12345678  -\n");
    }
}
