//! Rounds: every subject once per round, one after the other, so that what the machine does meanwhile meets all of them.

use std::collections::BTreeMap;

/// Values by column and subject, one a round.
#[derive(Default)]
pub struct Rounds {
    subjects: Vec<String>,
    columns: Vec<String>,
    values: BTreeMap<(String, String), Vec<f64>>,
}

impl Rounds {
    pub fn note(&mut self, subject: &str, column: &str, value: f64) {
        for (list, name) in [(&mut self.subjects, subject), (&mut self.columns, column)] {
            if !list.iter().any(|known| known == name) {
                list.push(name.to_owned());
            }
        }
        self.values.entry((subject.to_owned(), column.to_owned())).or_default().push(value);
    }

    /// Markdown: a row per subject and column with minimum and median, and the median of the rounds' ratios to `base`.
    pub fn table(&self, base: &str, format: impl Fn(&str, f64) -> String) -> String {
        let mut text = format!("| | what | min | median | max | of {base}, median of paired rounds |\n|---|---|---|---|---|---|\n");
        for column in &self.columns {
            for subject in &self.subjects {
                let Some(values) = self.values.get(&(subject.clone(), column.clone())) else { continue };
                let ratio = match self.values.get(&(base.to_owned(), column.clone())) {
                    Some(reference) if subject != base => {
                        format!("{:.2}", median(values.iter().zip(reference).map(|(value, reference)| value / reference).collect()))
                    }
                    _ => String::new(),
                };
                let (least, most) = (values.iter().copied().fold(f64::MAX, f64::min), values.iter().copied().fold(f64::MIN, f64::max));
                let [least, middle, most] = [least, median(values.clone()), most].map(|value| format(column, value));
                text += &format!("| {subject} | {column} | {least} | {middle} | {most} | {ratio} |\n");
            }
        }
        text
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[len / 2],
        len => (values[len / 2 - 1] + values[len / 2]) / 2.0,
    }
}

/// Date, kernel and processor: what a number is worth without.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model =
        cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).map_or("", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let date = std::process::Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]).output();
    let date = date.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, |cores| cores.get());
    format!("{date}, Linux {}, {cores} × {model}, load {}", read("/proc/sys/kernel/osrelease").trim(), read("/proc/loadavg").trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_the_same_round() {
        let mut rounds = Rounds::default();
        // The machine is twice as slow in the second round; the ratio stays.
        for factor in [1.0, 2.0, 1.0] {
            rounds.note("base", "ns", 100.0 * factor);
            rounds.note("ours", "ns", 110.0 * factor);
        }
        let table = rounds.table("base", |_, value| format!("{value:.0}"));
        assert!(table.contains("| ours | ns | 110 | 110 | 220 | 1.10 |"), "{table}");
        assert!(table.contains("| base | ns | 100 | 100 | 200 |  |"), "{table}");
    }

    #[test]
    fn median_of_an_even_number_lies_between() {
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
    }
}
