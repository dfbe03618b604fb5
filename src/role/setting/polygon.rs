//! What the outline of a fence may look like: closed, of three points at least, not touching itself, on the earth
//! (DOMAIN 5.11). Degrees are taken as they are, as a flat map: a fence over the date line is two fences.

/// A corner, `[lon, lat]` in degrees.
pub type Corner = [f64; 2];

/// Corners of a ring at the most: what is checked grows with their square.
pub const CORNERS_MAX: usize = 1_000;

/// What is wrong with a ring, as the end of a sentence that begins with the field.
///
/// # Errors
/// The first rule that it breaks.
pub fn check(ring: &[Corner]) -> Result<(), String> {
    if ring.len() > CORNERS_MAX {
        return Err(format!("has more than {CORNERS_MAX} points"));
    }
    for (at, [lon, lat]) in ring.iter().enumerate() {
        if !(-180.0..=180.0).contains(lon) || !(-90.0..=90.0).contains(lat) {
            return Err(format!(
                "point {at} is not [lon, lat] within -180 to 180 and -90 to 90"
            ));
        }
    }
    let (Some(first), Some(last)) = (ring.first(), ring.last()) else {
        return Err("has no points".to_owned());
    };
    if first != last || ring.len() < 2 {
        return Err("is not closed: the last point is not the first".to_owned());
    }
    // A point written twice in a row is one point.
    let mut corners = ring.to_vec();
    corners.dedup();
    corners.pop();
    let mut distinct = corners.clone();
    distinct.sort_by(|a, b| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
    distinct.dedup();
    if distinct.len() < 3 {
        return Err("has fewer than 3 distinct points".to_owned());
    }
    if touches_itself(&corners) {
        return Err("crosses or touches itself".to_owned());
    }
    Ok(())
}

/// Whether two edges of the ring share more than the corner between neighbours.
fn touches_itself(corners: &[Corner]) -> bool {
    let count = corners.len();
    let edge = |at: usize| (corners[at % count], corners[(at + 1) % count]);
    for first in 0..count {
        for second in first + 1..count {
            let (a, b) = edge(first);
            let (c, d) = edge(second);
            let meets = if second == first + 1 {
                folds_back(a, b, d)
            } else if (second + 1) % count == first {
                folds_back(c, d, b)
            } else {
                meet(a, b, c, d)
            };
            if meets {
                return true;
            }
        }
    }
    false
}

/// Twice the area of the triangle; its sign is the direction of the turn.
fn turn(a: Corner, b: Corner, c: Corner) -> f64 {
    (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
}

/// Whether the way from `b` on to `c` goes back over the edge from `a` to `b`.
fn folds_back(a: Corner, b: Corner, c: Corner) -> bool {
    let ahead = (b[0] - a[0]) * (c[0] - b[0]) + (b[1] - a[1]) * (c[1] - b[1]);
    turn(a, b, c) == 0.0 && ahead < 0.0
}

/// Whether `point`, on the line through `a` and `b`, lies between them.
fn between(a: Corner, b: Corner, point: Corner) -> bool {
    let within = |axis: usize| (a[axis].min(b[axis])..=a[axis].max(b[axis])).contains(&point[axis]);
    within(0) && within(1)
}

/// Whether two edges have a point in common.
fn meet(a: Corner, b: Corner, c: Corner, d: Corner) -> bool {
    let (to_c, to_d) = (turn(a, b, c), turn(a, b, d));
    let (to_a, to_b) = (turn(c, d, a), turn(c, d, b));
    let apart = |one: f64, other: f64| (one > 0.0 && other < 0.0) || (one < 0.0 && other > 0.0);
    (apart(to_c, to_d) && apart(to_a, to_b))
        || (to_c == 0.0 && between(a, b, c))
        || (to_d == 0.0 && between(a, b, d))
        || (to_a == 0.0 && between(c, d, a))
        || (to_b == 0.0 && between(c, d, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SQUARE: [Corner; 5] = [[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0], [0.0, 0.0]];

    fn wrong(ring: &[Corner]) -> String {
        check(ring).expect_err("refused")
    }

    #[test]
    fn outlines_that_enclose_an_area_are_taken() {
        assert_eq!(check(&SQUARE), Ok(()));
        let backwards: Vec<Corner> = SQUARE.iter().rev().copied().collect();
        assert_eq!(check(&backwards), Ok(()));
        let triangle = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]];
        assert_eq!(check(&triangle), Ok(()));
        // A corner in the middle of a straight side, one written twice, and a dent.
        let plain = [
            [0.0, 0.0],
            [2.0, 0.0],
            [2.0, 0.0],
            [4.0, 0.0],
            [2.0, 1.0],
            [4.0, 4.0],
            [0.0, 4.0],
            [0.0, 0.0],
        ];
        assert_eq!(check(&plain), Ok(()));
        let whole = [
            [-180.0, -90.0],
            [180.0, -90.0],
            [180.0, 90.0],
            [-180.0, 90.0],
            [-180.0, -90.0],
        ];
        assert_eq!(check(&whole), Ok(()));
    }

    #[test]
    fn open_small_and_distant_outlines_are_refused() {
        assert!(wrong(&SQUARE[..4]).contains("not closed"));
        assert!(wrong(&[]).contains("no points"));
        assert!(wrong(&[[1.0, 1.0]]).contains("not closed"));
        let line = [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.0]];
        assert!(wrong(&line).contains("fewer than 3"));
        let mut far = SQUARE;
        far[1] = [181.0, 0.0];
        assert!(wrong(&far).contains("point 1"));
        far[1] = [4.0, f64::NAN];
        assert!(wrong(&far).contains("point 1"));
        assert!(wrong(&vec![[0.0, 0.0]; CORNERS_MAX + 1]).contains("more than"));
    }

    #[test]
    fn outlines_that_cross_or_touch_themselves_are_refused() {
        let bow = [[0.0, 0.0], [4.0, 4.0], [4.0, 0.0], [0.0, 4.0], [0.0, 0.0]];
        // Twice through one corner; a corner on another side; out and back on one line; all on one line.
        let eight = [
            [0.0, 0.0],
            [2.0, 2.0],
            [4.0, 0.0],
            [4.0, 4.0],
            [2.0, 2.0],
            [0.0, 4.0],
            [0.0, 0.0],
        ];
        let on_side = [
            [0.0, 0.0],
            [4.0, 0.0],
            [4.0, 4.0],
            [2.0, 0.0],
            [0.0, 4.0],
            [0.0, 0.0],
        ];
        let spike = [
            [0.0, 0.0],
            [4.0, 0.0],
            [8.0, 0.0],
            [4.0, 0.0],
            [4.0, 4.0],
            [0.0, 0.0],
        ];
        let flat = [[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [0.0, 0.0]];
        for ring in [&bow[..], &eight, &on_side, &spike, &flat] {
            assert!(wrong(ring).contains("itself"), "{ring:?}");
        }
    }
}
