// Command firstinstruction says when it began: CLOCK_MONOTONIC, the same clock in every container of a
// machine, in nanoseconds, as one line on stdout.
package main

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

func main() {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	_, _ = os.Stdout.WriteString(strconv.FormatInt(now.Nano(), 10) + "\n")
}
