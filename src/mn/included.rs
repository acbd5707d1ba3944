//! Which other files a template or a list of packages includes, and where those begin that xCAT puts together from variables.

/// The names that a list includes: `#INCLUDE:name#`, and for SLES `#INCLUDE_PKGLIST:name#` and its like.
pub fn includes(text: &[u8], is_template: bool) -> Vec<Vec<u8>> {
    const WORD: &[u8] = b"#INCLUDE";
    let mut names = Vec::new();
    for line in text.split(|b| *b == b'\n') {
        let begin = line.trim_ascii_start();
        if !is_template && begin.starts_with(b"#") && !begin.starts_with(WORD) {
            continue;
        }
        for at in 0..line.len() {
            let Some(rest) = line.get(at..).and_then(|rest| rest.strip_prefix(WORD)) else { continue };
            let mut kinds = ["_PKGLIST:", "_PTRNLIST:", "_RMPKGLIST:", ":"].iter();
            let Some(rest) = kinds.find_map(|kind| rest.strip_prefix(kind.as_bytes())) else { continue };
            // A variable that was not put in has the same sign around it as the whole.
            let from = if rest.starts_with(b"#ENV:") {
                rest.iter().skip(1).position(|b| *b == b'#').map_or(0, |n| n + 2)
            } else {
                0
            };
            let end = rest.iter().skip(from).position(|b| matches!(b, b'#' | b'^')).map(|end| from + end);
            let name = end.filter(|end| rest.get(*end) == Some(&b'#')).and_then(|end| rest.get(..end));
            names.extend(name.map(<[u8]>::trim_ascii).filter(|name| !name.is_empty()).map(<[u8]>::to_vec));
        }
    }
    names
}

/// A text with values put in for those of xCAT's variables that are given, in each form in which they can stand.
pub fn settled(text: &[u8], variables: &[(&str, &[u8])]) -> Vec<u8> {
    let mut text = text.to_vec();
    for (name, value) in variables {
        for form in [format!("#ENV:{name}#"), format!("${{{name}}}"), format!("${name}")] {
            text = replace(&text, form.as_bytes(), value);
        }
    }
    text
}

fn replace(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let (mut done, mut rest) = (Vec::with_capacity(text.len()), text);
    while let Some(at) = rest.windows(from.len()).position(|window| window == from) {
        done.extend_from_slice(rest.get(..at).unwrap_or_default());
        done.extend_from_slice(to);
        rest = rest.get(at + from.len()..).unwrap_or_default();
    }
    done.extend_from_slice(rest);
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_an_inclusion_is_read_and_comments_of_lists_are_not() {
        for (line, in_templates, in_lists) in [
            ("#INCLUDE:/a#", &["/a"][..], &["/a"][..]),
            ("  #INCLUDE: a b #tail", &["a b"], &["a b"]),
            ("x #INCLUDE:a# y #INCLUDE:b#", &["a", "b"], &["a", "b"]),
            ("#INCLUDE_PKGLIST:a##INCLUDE_PTRNLIST:b##INCLUDE_RMPKGLIST:c#", &["a", "b", "c"], &["a", "b", "c"]),
            ("# no #INCLUDE:a#", &["a"], &[]),
            ("#INCLUDE_DEFAULT_PKGLIST#", &[], &[]),
            ("#INCLUDE:open", &[], &[]),
            ("#INCLUDE:#", &[], &[]),
            ("#INCLUDE:a^b#", &[], &[]),
            ("#INCLUDE:#ENV:X#/a#", &["#ENV:X#/a"], &["#ENV:X#/a"]),
        ] {
            let names = |is_template| includes(line.as_bytes(), is_template);
            let words = |names: &[&str]| names.iter().map(|n| n.as_bytes().to_vec()).collect::<Vec<_>>();
            assert_eq!(names(true), words(in_templates), "{line}");
            assert_eq!(names(false), words(in_lists), "{line}");
        }
    }

    #[test]
    fn variables_are_put_in_whichever_way_they_stand() {
        let text = settled(b"#ENV:A#/${A}/$A$B", &[("A", b"x$B"), ("B", b"y")]);
        assert_eq!(text, b"xy/xy/xyy");
        assert_eq!(settled(b"$C ", &[("A", b"x")]), b"$C ");
    }
}
