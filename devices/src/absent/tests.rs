use super::*;
use crate::bus::BusDevice;

#[test]
fn it_reads_zero_whatever_was_written() {
    let mut data = [0xff; 4];
    Absent.write(0, &[1, 2, 3, 4]);
    Absent.read(0, &mut data);
    assert_eq!(data, [0; 4]);
}
