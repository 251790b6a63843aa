//! A bar chart as SVG. Its colours are legible on white and on black, since a
//! picture does not know the background of its page.

use std::fmt::Write as _;

use super::figures::{Spread, short};

/// Bars that start at the same zero.
pub struct Chart {
    /// The title, with the unit.
    pub title: String,
    /// The bars, from the top.
    pub bars: Vec<Bar>,
}

/// A bar, with whiskers from the least to the most.
pub struct Bar {
    /// The name beside the bar.
    pub label: String,
    /// The length of the bar.
    pub spread: Spread,
}

const WIDTH: f64 = 760.0;

/// The horizontal positions of the start of a bar and the end of the longest whisker.
const LEFT: f64 = 240.0;

/// See [`LEFT`].
const RIGHT: f64 = 590.0;

const TOP: f64 = 48.0;

const ROW: f64 = 30.0;

const BAR: f64 = 16.0;

const INK: &str = "#727a86";

/// Returns a bar's colour by the first word of its label: the gateway, the
/// baseline, or a peer.
fn colour(label: &str) -> &'static str {
    match label.split(' ').next() {
        Some("gateway") => "#58a6ff",
        Some("baseline") => "#b4bac2",
        _ => "#d9a066",
    }
}

impl Chart {
    /// Returns the SVG text.
    pub fn svg(&self) -> String {
        let most = self.bars.iter().map(|bar| bar.spread.most).fold(0.0, f64::max);
        let scale = if most > 0.0 { (RIGHT - LEFT) / most } else { 0.0 };
        let height = TOP + ROW * self.bars.len() as f64 + 12.0;
        let title = escaped(&self.title);
        let mut out = String::new();
        let _ = write!(
            out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             width=\"{WIDTH}\" height=\"{height}\" role=\"img\" font-family=\"sans-serif\" \
             font-size=\"13\" fill=\"{INK}\">\n<title>{title}</title>\n\
             <text x=\"16\" y=\"26\" font-size=\"15\" font-weight=\"bold\">{title}</text>\n"
        );
        for (index, bar) in self.bars.iter().enumerate() {
            bar.draw(&mut out, TOP + ROW * index as f64, scale);
        }
        let bottom = height - 8.0;
        let _ = writeln!(out, "{}\n</svg>", line(LEFT, TOP - 6.0, LEFT, bottom));
        out
    }
}

impl Bar {
    fn draw(&self, out: &mut String, top: f64, scale: f64) {
        let Bar { label, spread: Spread { median, least, most } } = self;
        let (middle, base) = (top + BAR / 2.0, top + BAR / 2.0 + 4.5);
        let at = |value: f64| LEFT + value.max(0.0) * scale;
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{base:.1}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{LEFT:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{BAR:.1}\" fill=\"{}\"/>",
            LEFT - 8.0,
            escaped(label),
            at(*median) - LEFT,
            colour(label)
        );
        let mut figure = short(*median);
        if least < most {
            let (from, to) = (at(*least), at(*most));
            for (x1, x2, half) in [(from, to, 0.0), (from, from, 4.0), (to, to, 4.0)] {
                let _ = writeln!(out, "{}", line(x1, middle - half, x2, middle + half));
            }
            let _ = write!(figure, " ({}–{})", short(*least), short(*most));
        }
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{base:.1}\">{figure}</text>",
            at(median.max(*most)) + 8.0
        );
    }
}

fn line(x1: f64, y1: f64, x2: f64, y2: f64) -> String {
    format!(
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{INK}\" \
         stroke-width=\"1.5\"/>"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the names of the elements, and checks that each is closed.
    fn elements(text: &str) -> Vec<String> {
        let (mut open, mut names): (Vec<&str>, Vec<String>) = (Vec::new(), Vec::new());
        for tag in text.split('<').skip(1) {
            let (tag, behind) = tag.split_once('>').unwrap();
            assert!(!behind.contains('>'), "{behind}");
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name));
                continue;
            }
            let name = tag.split([' ', '/']).next().unwrap();
            names.push(name.to_owned());
            if !tag.ends_with('/') {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "{open:?}");
        names
    }

    #[test]
    fn a_chart_is_well_formed_and_has_its_figures() {
        let bar = |label: &str, median, least, most| Bar {
            label: label.to_owned(),
            spread: Spread { median, least, most },
        };
        let bars = vec![
            bar("gateway", 5.25, 5.0, 6.5),
            bar("baseline", 5.0, 5.0, 5.0),
            bar("a <peer> & more 1.2", 10.5, 9.25, 12.75),
        ];
        let svg = Chart { title: "x: CPU µs".to_owned(), bars }.svg();
        let count = |name: &str| elements(&svg).iter().filter(|element| *element == name).count();
        assert_eq!([count("svg"), count("rect"), count("text"), count("line")], [1, 3, 7, 7]);
        for text in [
            ">x: CPU µs<",
            ">gateway<",
            ">5.25 (5.00–6.50)<",
            ">5.00<",
            ">a &lt;peer&gt; &amp; more 1.2<",
            ">10.5 (9.25–12.8)<",
        ] {
            assert!(svg.contains(text), "{text}: {svg}");
        }
        // 12.75 is the most of all, and spans the whole width.
        let width = (RIGHT - LEFT) / 12.75 * 10.5;
        assert!(svg.contains(&format!("width=\"{width:.1}\"")), "{svg}");
    }
}
