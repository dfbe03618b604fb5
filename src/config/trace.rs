//! The section `trace`: where spans go, and of how many traces.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::{Check, sound_address};

/// Traces to an OpenTelemetry collector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Trace {
    /// The collector, OTLP over HTTP, without `/v1/traces`; empty: nothing is traced.
    pub otlp_url: String,
    /// A file of headers for it, `name: value` a line; they may be secrets.
    pub headers_file: String,
    /// The share of traces that is recorded, 0 to 1. Spans that end with an error are in any case.
    pub sample_ratio: f64,
}

impl Default for Trace {
    fn default() -> Self {
        Self {
            otlp_url: String::new(),
            headers_file: String::new(),
            sample_ratio: 0.1,
        }
    }
}

impl Trace {
    /// The headers of the file.
    ///
    /// # Errors
    /// One sentence, for a file that can't be read and a line that is none.
    pub fn headers(&self) -> Result<Vec<(String, String)>, String> {
        if self.headers_file.is_empty() {
            return Ok(Vec::new());
        }
        let text = std::fs::read_to_string(&self.headers_file)
            .map_err(|error| format!("{} can't be read: {error}", self.headers_file))?;
        let lines = text.lines().map(str::trim).enumerate();
        lines
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
            .map(|(at, line)| match line.split_once(':') {
                Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned())),
                None => Err(format!(
                    "{}, line {}: not 'name: value'",
                    self.headers_file,
                    at + 1
                )),
            })
            .collect()
    }
}

impl Check<'_> {
    pub(super) fn trace(&mut self, trace: &Trace) {
        let url = &trace.otlp_url;
        if !url.is_empty() && !sound_address(url) {
            self.refuse(
                "trace.otlp_url",
                "is no https:// address; http:// is for a collector on this machine alone",
                "write it like http://127.0.0.1:4318, or leave it empty for no traces",
            );
        }
        self.within("trace.sample_ratio", &trace.sample_ratio, &(0.0..=1.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_lines_and_what_is_none_is_named_by_its_number() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("headers");
        let text = "# of the collector\n\nauthorization: Bearer a:b\nx-tenant : depot\n";
        std::fs::write(&file, text).expect("written");
        let mut trace = Trace {
            headers_file: file.display().to_string(),
            ..Trace::default()
        };
        let expected = [("authorization", "Bearer a:b"), ("x-tenant", "depot")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(trace.headers(), Ok(expected.to_vec()));
        std::fs::write(&file, "authorization: x\nsecret\n").expect("written");
        let wrong = trace.headers().expect_err("no header");
        assert!(wrong.ends_with("line 2: not 'name: value'"), "{wrong}");
        trace.headers_file.push_str("-gone");
        assert!(trace.headers().expect_err("gone").contains("can't be read"));
    }
}
