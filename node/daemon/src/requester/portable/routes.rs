//! How a compile's files were reached: whether by ways that lead to the same files in another checkout.
//!
//! An input tree holds files at their real paths. That a renamed tree gives another checkout the same files needs every way
//! from a spelled path to a real one to be renamed with it. A way that climbs out of a place by `..`, a link that does, or an absolute
//! name in a text is not: elsewhere it may lead into somebody else's checkout. `docs/portable.md` has the argument.

use barn_protocol::{Entry, Places, Tree};

/// The ways that need a look, noted before it is known what the places are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in super::super) struct Routes {
    /// Paths with `..` or links in them, as spelled, and where they led.
    winding: Vec<(Vec<u8>, Vec<u8>)>,
    /// Absolute names of files in texts.
    named: Vec<Vec<u8>>,
}

impl Routes {
    /// Notes that a file was reached by a path.
    pub(in super::super) fn note(&mut self, spelled: &[u8], real: &[u8]) {
        let is_absolute = spelled.first() == Some(&b'/');
        if climbs(spelled) || (is_absolute && spelled != real) {
            self.winding.push((spelled.to_vec(), real.to_vec()));
        }
    }

    /// Notes that a text names a file so.
    pub(in super::super) fn named_by_text(&mut self, name: &[u8]) {
        if name.first() == Some(&b'/') {
            self.named.push(name.to_vec());
        }
    }

    /// Why these ways may lead elsewhere in another checkout, if they may; `tree` is where they led. `cwd` is the working directory.
    pub(super) fn obstacle(&self, places: &Places, cwd: &[u8], tree: &Tree) -> Option<String> {
        let shown = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
        if let Some(name) = self.named.iter().find(|name| places.place_of(name).is_some()) {
            return Some(format!("a text names {} by its absolute path", shown(name)));
        }
        let strays = |(spelled, real): &&(Vec<u8>, Vec<u8>)| strays(spelled, real, places, cwd);
        if let Some((spelled, _)) = self.winding.iter().find(strays) {
            return Some(format!("{} leads out of the project or into it from outside", shown(spelled)));
        }
        let mut has_links = false;
        for (path, entry) in tree.iter() {
            let Entry::Symlink { target } = entry else { continue };
            has_links |= places.place_of(path.as_bytes()).is_some();
            if link_strays(path.as_bytes(), target, places) {
                return Some(format!("the link {path} leads out of the project or into it from outside"));
            }
        }
        // Behind a link `..` is not what it is on paper.
        let climbing =
            self.winding.iter().find(|(spelled, _)| climbs(spelled) && !is_outside(spelled, places));
        match climbing {
            Some((spelled, _)) if has_links => Some(format!("{} climbs where links are", shown(spelled))),
            _ => None,
        }
    }
}

fn climbs(path: &[u8]) -> bool {
    path.split(|&b| b == b'/').any(|part| part == b"..")
}

fn is_outside(spelled: &[u8], places: &Places) -> bool {
    spelled.first() == Some(&b'/') && places.place_of(spelled).is_none()
}

/// Whether the way from a spelled path to a real one crosses the border of a place.
fn strays(spelled: &[u8], real: &[u8], places: &Places, cwd: &[u8]) -> bool {
    if is_outside(spelled, places) {
        return places.place_of(real).is_some();
    }
    let whole = if spelled.first() == Some(&b'/') { spelled.to_vec() } else { [cwd, b"/", spelled].concat() };
    match places.place_of(&whole) {
        Some((_, below)) => !stays_below(below),
        // Relative to a working directory that is no place.
        None => places.place_of(real).is_some(),
    }
}

/// Whether a path, walked on paper, never leaves the directory that it begins in.
fn stays_below(path: &[u8]) -> bool {
    let mut depth = 0_usize;
    for part in path.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." if depth == 0 => return false,
            b".." => depth -= 1,
            _ => depth += 1,
        }
    }
    true
}

/// Whether a link that is not absolute crosses the border of a place. Absolute targets are renamed with the place.
fn link_strays(link: &[u8], target: &[u8], places: &Places) -> bool {
    if target.first() == Some(&b'/') {
        return climbs(target) && places.place_of(target).is_some();
    }
    let directory = &link[..link.iter().rposition(|&b| b == b'/').unwrap_or(0)];
    let whole = [directory, b"/", target].concat();
    match (places.place_of(link), places.place_of(&whole)) {
        (Some(_), Some((_, below))) => {
            // Only leading `..` are sure to be what they are on paper: the link's directory is a real path.
            let after = target.split(|&b| b == b'/').skip_while(|part| matches!(*part, b".." | b"." | b""));
            !stays_below(below) || after.into_iter().any(|part| part == b"..")
        }
        _ => on_paper(&whole).is_none_or(|path| places.place_of(&path).is_some() || places.implies(&path)),
    }
}

/// Where an absolute path leads if there are no links in it; `None` above the root of all.
pub(super) fn on_paper(path: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()?),
            _ => parts.push(part),
        }
    }
    Some(parts.iter().flat_map(|part| [b"/", *part].concat()).collect())
}

#[cfg(test)]
mod tests {
    use barn_protocol::TreePath;

    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::new(text).unwrap()
    }

    /// Whether, in the project `/h/a/p` built in `cwd`, `spelled` may lead to `real`, with these links in the tree.
    fn check(cwd: &str, spelled: &str, real: &str, links: &[(&str, &str)], is_fine: bool) {
        let places = Places::new(path("/h/a/p"), &path(cwd)).unwrap();
        let mut tree = Tree::new();
        for (at, target) in links {
            tree.insert(path(at), Entry::Symlink { target: target.as_bytes().to_vec() }).unwrap();
        }
        let mut routes = Routes::default();
        routes.note(spelled.as_bytes(), real.as_bytes());
        let obstacle = routes.obstacle(&places, cwd.as_bytes(), &tree);
        assert_eq!(obstacle.is_none(), is_fine, "{cwd} {spelled} {real} {links:?}: {obstacle:?}");
    }

    #[test]
    fn ways_within_a_place_are_fine() {
        for (spelled, real) in [
            ("x.h", "/h/a/p/b/x.h"),
            ("../x.h", "/h/a/p/x.h"),
            ("../b/../s/x.h", "/h/a/p/s/x.h"),
            ("/h/a/p/s/../x.h", "/h/a/p/x.h"),
            ("/usr/lib/gcc/12/../../x.h", "/usr/lib/x.h"),
        ] {
            check("/h/a/p/b", spelled, real, &[], true);
        }
        check("/h/a/b", "/h/a/p/s/../x.h", "/h/a/p/x.h", &[], true);
    }

    #[test]
    fn ways_across_a_border_are_not() {
        for (spelled, real) in [
            ("../../x.h", "/h/a/x.h"),
            ("../../p/x.h", "/h/a/p/x.h"),
            ("/h/a/p/../p/x.h", "/h/a/p/x.h"),
            ("/h/a/q/../p/x.h", "/h/a/p/x.h"),
            ("/link/x.h", "/h/a/p/x.h"),
        ] {
            check("/h/a/p/b", spelled, real, &[], false);
        }
        check("/h/a/b", "../p/x.h", "/h/a/p/x.h", &[], false);
        check("/", "h/a/p/../p/x.h", "/h/a/p/x.h", &[], false);
    }

    #[test]
    fn links_are_followed_with_care() {
        let link =
            |at: &str, target: &str, is_fine| check("/h/a/p", "x.h", "/h/a/p/x.h", &[(at, target)], is_fine);
        link("/h/a/p/l", "s/x.h", true);
        link("/h/a/p/s/l", "../x.h", true);
        link("/h/a/p/l", "/opt/x.h", true);
        link("/h/a/p/l", "/h/a/p/x.h", true);
        link("/usr/lib/l", "../include", true);
        link("/h/a/p/l", "../q/x.h", false);
        link("/h/a/p/l", "../p/x.h", false);
        link("/h/a/p/l", "s/../x.h", false);
        link("/h/a/l", "p/x.h", false);
        link("/h/a/l", ".", false);
        link("/h/l", "../../..", false);
        check("/h/a/p", "s/../x.h", "/h/a/p/x.h", &[("/h/a/p/l", "s")], false);
        check("/h/a/p", "s/../x.h", "/h/a/p/x.h", &[("/usr/l", "s")], true);
    }

    #[test]
    fn a_text_may_not_name_a_place() {
        let places = Places::new(path("/h/a/p"), &path("/h/a/p")).unwrap();
        for (name, is_fine) in
            [("/usr/include/x.h", true), ("x.h", true), ("/h/a/p2/x.h", true), ("/h/a/p/x.h", false)]
        {
            let mut routes = Routes::default();
            routes.named_by_text(name.as_bytes());
            assert_eq!(routes.obstacle(&places, b"/h/a/p", &Tree::new()).is_none(), is_fine, "{name}");
        }
    }
}
