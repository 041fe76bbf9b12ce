// Command runtime is the container runtime of the benchmarks: Go's own NRI adaptation, as containerd
// embeds it, fed with made-up pods and containers. It starts one plugin at a time, and measures what a
// runtime sees of it. It is driven over stdin and stdout, one JSON object a line, and decides nothing:
// how many requests, in which turns, and what the figures mean is the caller's business.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/proto"
)

// command is one line of stdin; which fields matter depends on Do.
type command struct {
	Do        string   `json:"do"`        // connect, record, create, disconnect
	Argv      []string `json:"argv"`      // connect: the plugin's command line
	Log       string   `json:"log"`       // connect: file that takes the plugin's stderr
	File      string   `json:"file"`      // record: file that takes the answer, in wire format; empty: only wait for one
	Requests  int      `json:"requests"`  // create: how many
	PauseUS   int      `json:"pause_us"`  // create: idle time before each request, microseconds
	Bystander bool     `json:"bystander"` // create: containers of pods that name no environment
}

// reply is one line of stdout.
type reply struct {
	Error         string  `json:"error,omitempty"`
	PID           int     `json:"pid,omitempty"`
	RegisteredNS  int64   `json:"registered_ns,omitempty"`  // exec to Configure answered
	SynchronizeNS int64   `json:"synchronize_ns,omitempty"` // all messages of it
	CreateNS      []int64 `json:"create_ns,omitempty"`      // one for each request, in order
	Mounts        int     `json:"mounts"`                   // record: what the answer holds
	Env           int     `json:"env"`
	Annotations   int     `json:"annotations"`
	Bytes         int     `json:"bytes"`
}

// answers keeps the last answer as the plugin gave it, before the adaptation merges it.
type answers struct{ last *api.ContainerAdjustment }

func (a *answers) RecordPluginInvocation(string, string, error)      {}
func (a *answers) RecordPluginLatency(string, string, time.Duration) {}
func (a *answers) UpdatePluginCount(int)                             {}
func (a *answers) RecordPluginAdjustments(_, operation string, adjust *api.ContainerAdjustment, _, _ int) {
	if operation == "CreateContainer" {
		a.last = adjust
	}
}

type rig struct {
	node     *node
	nri      *adaptation.Adaptation
	answers  *answers
	expected *api.CreateContainerResponse // what every adjusted container gets, once recorded
	plugin   *exec.Cmd
	ended    <-chan struct{} // closed when the plugin has
	// The runtime asks for its state exactly when the plugin has answered Configure.
	registered   chan time.Time
	synchronized chan synchronized
}

type synchronized struct {
	took time.Duration
	err  error
}

func (r *rig) synchronize(ctx context.Context, deliver adaptation.SyncCB) error {
	r.registered <- time.Now()
	pods, containers := r.node.state()
	start := time.Now()
	_, err := deliver(ctx, pods, containers)
	r.synchronized <- synchronized{time.Since(start), err}
	return err
}

func (r *rig) connect(c command) (reply, error) {
	log, err := os.OpenFile(c.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return reply{}, err
	}
	defer log.Close()
	plugin := exec.Command(c.Argv[0], c.Argv[1:]...)
	plugin.Stdout, plugin.Stderr = log, log
	plugin.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.GC()
	start := time.Now()
	if err := plugin.Start(); err != nil {
		return reply{}, err
	}
	ended := make(chan struct{})
	go func() {
		_ = plugin.Wait()
		close(ended)
	}()
	r.plugin, r.ended = plugin, ended
	select {
	case at := <-r.registered:
		done := <-r.synchronized
		if done.err != nil {
			return reply{}, fmt.Errorf("Synchronize: %w", done.err)
		}
		// The adaptation puts the plugin into its list only after the callback has returned.
		r.nri.BlockPluginSync().Unblock()
		return reply{
			PID:           plugin.Process.Pid,
			RegisteredNS:  at.Sub(start).Nanoseconds(),
			SynchronizeNS: done.took.Nanoseconds(),
		}, nil
	case <-ended:
		return reply{}, fmt.Errorf("the plugin ended before it had registered (%s), see %s", plugin.ProcessState, c.Log)
	case <-time.After(20 * time.Second):
		return reply{}, fmt.Errorf("the plugin did not register within 20 s, see %s", c.Log)
	}
}

// record waits until the plugin adjusts a container; with a file to write, that answer is the one
// which every later one must equal.
func (r *rig) record(c command) (reply, error) {
	var refusal error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		r.answers.last = nil
		merged, err := r.nri.CreateContainer(context.Background(), r.node.request(0, false))
		if err != nil {
			refusal = err
			continue
		}
		adjust := r.answers.last
		if adjust == nil || untouched(adjust) {
			return reply{}, errors.New("the plugin left a container alone that names an environment")
		}
		wire, err := proto.Marshal(adjust)
		if err != nil || c.File == "" {
			return reply{}, err
		}
		r.expected = merged
		return reply{
			Mounts:      len(adjust.Mounts),
			Env:         len(adjust.Env),
			Annotations: len(adjust.Annotations),
			Bytes:       len(wire),
		}, os.WriteFile(c.File, wire, 0o644)
	}
	return reply{}, fmt.Errorf("no adjustment within 20 s: %w", refusal)
}

func untouched(adjust *api.ContainerAdjustment) bool {
	return len(adjust.Mounts)+len(adjust.Env)+len(adjust.Annotations)+len(adjust.Args) == 0
}

func (r *rig) create(c command) (reply, error) {
	requests := make([]*api.CreateContainerRequest, c.Requests)
	for i := range requests {
		requests[i] = r.node.request(i, c.Bystander)
	}
	answers := make([]*api.CreateContainerResponse, c.Requests)
	took := make([]int64, c.Requests)
	ctx := context.Background()
	pause := time.Duration(c.PauseUS) * time.Microsecond
	runtime.GC()
	for i, request := range requests {
		if pause > 0 {
			time.Sleep(pause)
		}
		start := time.Now()
		answer, err := r.nri.CreateContainer(ctx, request)
		took[i] = time.Since(start).Nanoseconds()
		if err != nil {
			return reply{}, fmt.Errorf("request %d: %w", i, err)
		}
		answers[i] = answer
	}
	for i, answer := range answers {
		if c.Bystander != untouched(answer.Adjust) || (!c.Bystander && !proto.Equal(answer, r.expected)) {
			return reply{}, fmt.Errorf("answer %d is not the one to expect: %v", i, answer)
		}
	}
	// What runs on a node comes to an end there; a plugin that counts containers may rely on it.
	for _, request := range requests {
		gone := &api.RemoveContainerRequest{Pod: request.Pod, Container: request.Container}
		if err := r.nri.RemoveContainer(ctx, gone); err != nil {
			return reply{}, err
		}
	}
	return reply{CreateNS: took}, nil
}

func (r *rig) disconnect() (reply, error) {
	if r.plugin == nil {
		return reply{}, nil
	}
	_ = r.plugin.Process.Signal(syscall.SIGTERM)
	select {
	case <-r.ended:
	case <-time.After(10 * time.Second):
		_ = r.plugin.Process.Kill()
		<-r.ended
	}
	r.plugin = nil
	return reply{}, nil
}

func (r *rig) do(c command) (reply, error) {
	switch c.Do {
	case "connect":
		return r.connect(c)
	case "record":
		return r.record(c)
	case "create":
		return r.create(c)
	case "disconnect":
		return r.disconnect()
	}
	return reply{}, fmt.Errorf("unknown command %q", c.Do)
}

func main() {
	socket := flag.String("socket", "", "where plugins connect")
	environment := flag.String("environment", "", "what annotated pods name, owner/name")
	storePath := flag.String("store-path", "", "what containers that run already were given")
	version := flag.String("runtime-version", "2.3.0", "containerd's version, as told to the plugin")
	flag.Parse()
	logrus.SetLevel(logrus.WarnLevel)
	// Measured is the plugin: the runtime must not give up on it early on a busy machine.
	adaptation.SetPluginRegistrationTimeout(15 * time.Second)
	adaptation.SetPluginRequestTimeout(15 * time.Second)

	r := &rig{
		node:         newNode(*environment, *storePath),
		answers:      &answers{},
		registered:   make(chan time.Time, 1),
		synchronized: make(chan synchronized, 1),
	}
	update := func(context.Context, []*api.ContainerUpdate) ([]*api.ContainerUpdate, error) { return nil, nil }
	nri, err := adaptation.New("containerd", *version, r.synchronize, update,
		adaptation.WithSocketPath(*socket),
		adaptation.WithPluginPath("/nonexistent"),
		adaptation.WithPluginConfigPath("/nonexistent"),
		adaptation.WithMetrics(r.answers),
	)
	if err == nil {
		r.nri = nri
		err = nri.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer nri.Stop()
	<-r.registered // Start asks for state once, for plugins that the runtime launches itself; here none.
	<-r.synchronized

	lines := bufio.NewScanner(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var c command
		var answer reply
		err := json.Unmarshal(lines.Bytes(), &c)
		if err == nil {
			answer, err = r.do(c)
		}
		if err != nil {
			answer.Error = err.Error()
		}
		if err := out.Encode(answer); err != nil {
			break
		}
	}
	_, _ = r.disconnect()
}
