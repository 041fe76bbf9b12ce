// Command plugin is what our plugin is measured against: a plugin on Go's own stub that does as little
// as a plugin can. It gives the answer that it was handed at start to every container whose pod names
// an environment, and none to others. It knows the node's pods, and logs and decides nothing.
package main

import (
	"context"
	"flag"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/proto"
)

type plugin struct {
	answer *api.ContainerAdjustment
	pods   map[string]*api.PodSandbox
}

func (p *plugin) Synchronize(_ context.Context, pods []*api.PodSandbox, _ []*api.Container) ([]*api.ContainerUpdate, error) {
	p.pods = make(map[string]*api.PodSandbox, len(pods))
	for _, pod := range pods {
		p.pods[pod.Id] = pod
	}
	return nil, nil
}

func (p *plugin) CreateContainer(_ context.Context, pod *api.PodSandbox, _ *api.Container) (
	*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	if pod.Annotations["flox.dev/environment"] == "" {
		return nil, nil, nil
	}
	return p.answer, nil, nil
}

func (p *plugin) RemoveContainer(context.Context, *api.PodSandbox, *api.Container) error { return nil }

func main() {
	socket := flag.String("socket", "", "the runtime's NRI socket")
	answer := flag.String("answer", "", "file with a ContainerAdjustment, in wire format")
	flag.Parse()
	logrus.SetLevel(logrus.WarnLevel)

	p := &plugin{answer: &api.ContainerAdjustment{}}
	wire, err := os.ReadFile(*answer)
	if err == nil {
		err = proto.Unmarshal(wire, p.answer)
	}
	if err != nil {
		log.Fatal(err)
	}
	s, err := stub.New(p, stub.WithPluginName("stub"), stub.WithPluginIdx("50"), stub.WithSocketPath(*socket))
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := s.Run(ctx); err != nil && ctx.Err() == nil {
		log.Fatal(err)
	}
}
