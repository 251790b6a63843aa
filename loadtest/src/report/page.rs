//! Sections of a Markdown page.

use std::io;
use std::path::{Path, PathBuf};

/// Returns the page of measurements.
pub fn benchmarks() -> PathBuf {
    PathBuf::from("docs/benchmarks.md")
}

/// Replaces the section with the same heading, or appends the section.
///
/// # Errors
/// If the file cannot be read or written.
pub fn put(path: &Path, section: &str) -> io::Result<()> {
    let text = std::fs::read_to_string(path)?;
    std::fs::write(path, replaced(&text, section))
}

/// Writes the chart of a scenario beside the page that its section goes to.
///
/// # Errors
/// If the file cannot be written.
pub fn put_chart(page: &Path, scenario: &str, chart: &str) -> io::Result<()> {
    let folder = page.with_file_name("charts");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join(format!("{scenario}.svg")), chart)
}

fn replaced(text: &str, section: &str) -> String {
    let heading = section.lines().next().unwrap_or_default();
    let start = text.find(&format!("\n{heading}\n")).map(|at| at + 1);
    let Some(start) = start else { return format!("{}\n\n{section}", text.trim_end()) };
    let rest = &text[start + heading.len()..];
    let rest = rest.find("\n## ").map_or("", |at| &rest[at..]);
    format!("{}{section}{rest}", &text[..start])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_takes_its_own_place() {
        let text = "# Top\n\n## a\n\nold\n\n## b\n\nkept\n";
        assert_eq!(replaced(text, "## a\n\nnew\n"), "# Top\n\n## a\n\nnew\n\n## b\n\nkept\n");
        assert_eq!(replaced(text, "## b\n\nnew\n"), "# Top\n\n## a\n\nold\n\n## b\n\nnew\n");
        assert_eq!(replaced(text, "## c\n\nnew\n"), format!("{text}\n## c\n\nnew\n"));
    }
}
