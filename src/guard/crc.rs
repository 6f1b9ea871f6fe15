//! CRC-32C (Castagnoli), the checksum of WAL records; eight bytes at a time.

const TABLES: [[u32; 256]; 8] = tables();

#[allow(clippy::cast_possible_truncation, reason = "indices below 256, in a constant")]
const fn tables() -> [[u32; 256]; 8] {
    let mut all = [[0u32; 256]; 8];
    let mut i = 0;
    while i < 256 {
        let mut value = i as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 {
                value >> 1 ^ 0x82F6_3B78
            } else {
                value >> 1
            };
            bit += 1;
        }
        all[0][i] = value;
        i += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut i = 0;
        while i < 256 {
            let before = all[table - 1][i];
            all[table][i] = before >> 8 ^ all[0][(before & 0xFF) as usize];
            i += 1;
        }
        table += 1;
    }
    all
}

/// A checksum in the making.
#[derive(Debug, Clone, Copy)]
pub struct Crc32c(u32);

impl Default for Crc32c {
    fn default() -> Self {
        Self(!0)
    }
}

impl Crc32c {
    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        let mut crc = self.0;
        let (eights, rest) = bytes.as_chunks::<8>();
        for eight in eights {
            let word = u64::from_le_bytes(*eight) ^ u64::from(crc);
            let byte = |n: u32| (word >> (8 * n) & 0xFF) as usize;
            crc = TABLES[7][byte(0)]
                ^ TABLES[6][byte(1)]
                ^ TABLES[5][byte(2)]
                ^ TABLES[4][byte(3)]
                ^ TABLES[3][byte(4)]
                ^ TABLES[2][byte(5)]
                ^ TABLES[1][byte(6)]
                ^ TABLES[0][byte(7)];
        }
        for &byte in rest {
            crc = crc >> 8 ^ TABLES[0][((crc ^ u32::from(byte)) & 0xFF) as usize];
        }
        self.0 = crc;
    }

    /// The checksum of what was added.
    #[must_use]
    pub fn value(self) -> u32 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        let of = |bytes: &[u8]| {
            let mut crc = Crc32c::default();
            crc.add(bytes);
            crc.value()
        };
        assert_eq!(of(b"123456789"), 0xE306_9283);
        assert_eq!(of(&[0; 32]), 0x8A91_36AA);
        let mut parts = Crc32c::default();
        parts.add(b"1234");
        parts.add(b"56789");
        assert_eq!(parts.value(), 0xE306_9283);
    }
}
