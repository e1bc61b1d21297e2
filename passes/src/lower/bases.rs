//! Where small tensors lie: each begins on the tile behind the last one, so that all tiles get their share. But what one layer has, the others
//! have on the same tiles: what is done with it then has the same form in each, and shares its code.

use rustc_hash::FxHashMap;
use superstep_ir::class_name::class_name;
use superstep_ir::ids::IpuId;

/// Tiles that small tensors begin on.
#[derive(Default)]
pub(super) struct Bases {
    /// The tile behind the last one, by IPU.
    next: FxHashMap<IpuId, u32>,
    /// What was given out, by class of the op or state, and which tensor of it.
    given: FxHashMap<(IpuId, String, u32), u32>,
    serving: Serving,
}

/// Whose tensors come next: class of the op or state, and how many it has already.
#[derive(Default)]
pub(super) struct Serving {
    class: String,
    count: u32,
}

impl Bases {
    /// The next tensors are those of the op, or state, `name`; returns whose they were.
    pub(super) fn serve(&mut self, name: &str) -> Serving {
        let next = Serving {
            class: class_name(name),
            count: 0,
        };
        std::mem::replace(&mut self.serving, next)
    }

    /// Goes on where another was served meanwhile.
    pub(super) fn resume(&mut self, serving: Serving) {
        self.serving = serving;
    }

    /// First tile of the next tensor, which takes `used` of an IPU's `tiles`.
    pub(super) fn take(&mut self, ipu: IpuId, used: u32, tiles: u32) -> u32 {
        let Serving { class, count } = &mut self.serving;
        let key = (ipu, class.clone(), *count);
        *count += 1;
        let next = self.next.entry(ipu).or_default();
        *self.given.entry(key).or_insert_with(|| {
            let base = *next;
            *next = (base + used) % tiles;
            base
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_have_theirs_on_the_same_tiles_and_other_tensors_behind() {
        let (ipu, mut bases) = (IpuId(1), Bases::default());
        let mut of = |name: &str| {
            bases.serve(name);
            [(); 2].map(|()| bases.take(ipu, 6, 16))
        };
        assert_eq!(of("h.0.ln_1.bias"), [0, 6]);
        assert_eq!(of("h.0.ln_2.bias"), [12, 2]);
        assert_eq!(of("h.7.ln_1.bias"), [0, 6]);
        assert_eq!(of("h.1.ln_2.bias"), [12, 2]);
        assert_eq!(bases.take(IpuId(0), 6, 16), 0);
    }
}
