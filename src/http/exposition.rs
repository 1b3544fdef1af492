//! The text that Prometheus reads: its own format, and OpenMetrics for who asks for that.

use std::fmt::Write as _;

/// How it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus's, version 0.0.4.
    Text,
    OpenMetrics,
}

impl Format {
    /// As the header `Accept` wishes.
    pub fn of(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Text }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Its name ends in `_total`.
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What has been written so far. Samples of a family follow its `family`, and no other's.
pub struct Exposition {
    format: Format,
    text: String,
    name: &'static str,
}

impl Exposition {
    pub fn new(format: Format) -> Self {
        Self { format, text: String::new(), name: "" }
    }

    /// Begins a family. `help` has no line break, backslash or quotation mark.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        self.name = name;
        let family = match self.format {
            Format::OpenMetrics => name.strip_suffix("_total").unwrap_or(name),
            Format::Text => name,
        };
        let kind = kind.name();
        self.line(format_args!("# HELP {family} {help}"));
        self.line(format_args!("# TYPE {family} {kind}"));
    }

    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.sample_of("", labels, value);
    }

    /// Of the family's name with this at its end.
    pub fn sample_of(
        &mut self,
        suffix: &str,
        labels: &[(&str, &str)],
        value: impl std::fmt::Display,
    ) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        for (index, (name, value)) in labels.iter().enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            self.text.push_str(name);
            self.text.push_str("=\"");
            escape(&mut self.text, value);
            self.text.push('"');
        }
        let close = if labels.is_empty() { "" } else { "}" };
        self.line(format_args!("{close} {value}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a String does not fail.
        let _written = writeln!(self.text, "{line}");
    }

    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

fn escape(text: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

/// Microseconds as seconds, to the last digit.
pub fn seconds(micros: u64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: Format) -> String {
        let mut exposition = Exposition::new(format);
        exposition.family("a_total", Kind::Counter, "Things.");
        exposition.sample(&[], 3);
        exposition.sample(&[("x", "q\"b\\c\nd"), ("y", "")], seconds(1_000_001));
        exposition.family("h_seconds", Kind::Histogram, "Times.");
        exposition.sample_of("_bucket", &[("le", "+Inf")], 1);
        exposition.finish()
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(
            written(Format::Text),
            "# HELP a_total Things.\n# TYPE a_total counter\na_total 3\n\
             a_total{x=\"q\\\"b\\\\c\\nd\",y=\"\"} 1.000001\n\
             # HELP h_seconds Times.\n# TYPE h_seconds histogram\nh_seconds_bucket{le=\"+Inf\"} 1\n"
        );
    }

    #[test]
    fn counters_of_openmetrics_are_declared_without_their_suffix_and_there_is_an_end() {
        let text = written(Format::OpenMetrics);
        assert!(text.starts_with("# HELP a Things.\n# TYPE a counter\na_total 3\n"), "{text}");
        assert!(text.ends_with("\n# EOF\n"), "{text}");
    }

    #[test]
    fn the_format_is_the_one_asked_for() {
        let prometheus = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
        assert_eq!(Format::of(prometheus), Format::OpenMetrics);
        assert_eq!(Format::of("text/html,*/*;q=0.8"), Format::Text);
    }
}
