package main

import (
	"fmt"
	"strings"

	"github.com/containerd/nri/pkg/api"
	"google.golang.org/protobuf/proto"
)

const (
	podCount           = 500
	containersPerPod   = 4
	envPerContainer    = 40
	mountsPerContainer = 15
)

// node is a busy node as containerd's CRI plugin would describe it: every other pod names an
// environment, each container has 40 env entries and 15 mounts.
type node struct {
	environment string
	storePath   string
	pods        []*api.PodSandbox
	containers  []*api.Container
}

func newNode(environment, storePath string) *node {
	n := &node{environment: environment, storePath: storePath}
	for i := range podCount {
		pod := n.pod(i)
		n.pods = append(n.pods, pod)
		for j := range containersPerPod {
			container := n.container(pod, i*containersPerPod+j, fmt.Sprintf("worker-%d", j))
			container.State = api.ContainerState_CONTAINER_RUNNING
			if named(pod) {
				n.adjusted(container)
			}
			n.containers = append(n.containers, container)
		}
	}
	return n
}

func named(pod *api.PodSandbox) bool { return pod.Annotations["flox.dev/environment"] != "" }

// state is what Synchronize tells.
func (n *node) state() ([]*api.PodSandbox, []*api.Container) { return n.pods, n.containers }

// request is the i-th CreateContainer request, for a new container in one of the known pods.
func (n *node) request(i int, bystander bool) *api.CreateContainerRequest {
	at := 2 * (i % (podCount / 2))
	if bystander {
		at++
	}
	pod := n.pods[at]
	return &api.CreateContainerRequest{
		Pod:       proto.Clone(pod).(*api.PodSandbox),
		Container: n.container(pod, podCount*containersPerPod+i, "main"),
	}
}

func identity(kind string, i int) string {
	return strings.Repeat(fmt.Sprintf("%02x", len(kind)), 24) + fmt.Sprintf("%016x", i)
}

func podUID(i int) string { return fmt.Sprintf("5f0c1a7e-2b64-4d11-9c3e-%012x", i) }

func (n *node) pod(i int) *api.PodSandbox {
	name := fmt.Sprintf("checkout-7d9c6b5f4-%05x", i)
	uid := podUID(i)
	annotations := map[string]string{
		"kubernetes.io/config.seen":               "2026-03-01T09:30:00.123456789Z",
		"kubernetes.io/config.source":             "api",
		"prometheus.io/scrape":                    "true",
		"prometheus.io/port":                      "9090",
		"io.kubernetes.cri.sandbox-uid":           uid,
		"io.kubernetes.cri.sandbox-log-directory": "/var/log/pods/shop_" + name + "_" + uid,
		"io.kubernetes.cri.container-type":        "sandbox",
		"io.kubernetes.cri.sandbox-name":          name,
		"io.kubernetes.cri.sandbox-namespace":     "shop",
		"io.kubernetes.cri.sandbox-cpu-shares":    "512",
		"io.kubernetes.cri.sandbox-memory":        "536870912",
		"checksum/config":                         strings.Repeat("c0ffee42", 8),
	}
	if i%2 == 0 {
		annotations["flox.dev/environment"] = n.environment
	}
	return &api.PodSandbox{
		Id:        identity("pod", i),
		Name:      name,
		Uid:       uid,
		Namespace: "shop",
		Labels: map[string]string{
			"app":                         "checkout",
			"pod-template-hash":           "7d9c6b5f4",
			"io.kubernetes.pod.name":      name,
			"io.kubernetes.pod.namespace": "shop",
			"io.kubernetes.pod.uid":       uid,
			"topology.kubernetes.io/zone": "z1",
		},
		Annotations: annotations,
		Linux: &api.LinuxPodSandbox{
			CgroupParent: "/kubepods/burstable/pod" + uid,
			CgroupsPath:  "/kubepods/burstable/pod" + uid + "/" + identity("pod", i),
			PodResources: resources(),
			Namespaces:   namespaces(1000 + i),
		},
		Pid: uint32(1000 + i),
	}
}

func (n *node) container(pod *api.PodSandbox, i int, name string) *api.Container {
	env := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root",
		"HOSTNAME=" + pod.Name,
		"LANG=C.UTF-8",
	}
	for j := len(env); j < envPerContainer; j++ {
		env = append(env, fmt.Sprintf("CHECKOUT_BACKEND_%02d_SERVICE_ADDRESS=tcp://10.96.%d.%d:8080", j, j, j*3))
	}
	volumes := "/var/lib/kubelet/pods/" + pod.Uid + "/volumes/"
	mounts := []*api.Mount{
		mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
		mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
		mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
		mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
		mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
		mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro"),
		bind("/etc/hosts", "/var/lib/kubelet/pods/"+pod.Uid+"/etc-hosts"),
		bind("/dev/termination-log", "/var/lib/kubelet/pods/"+pod.Uid+"/containers/"+name+"/0a1b2c3d"),
		bind("/etc/hostname", "/var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes/"+pod.Id+"/hostname"),
		bind("/etc/resolv.conf", "/var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes/"+pod.Id+"/resolv.conf"),
		bind("/dev/shm", "/run/containerd/io.containerd.grpc.v1.cri/sandboxes/"+pod.Id+"/shm"),
		bind("/var/run/secrets/kubernetes.io/serviceaccount", volumes+"kubernetes.io~projected/kube-api-access-x7k2p"),
		bind("/etc/checkout", volumes+"kubernetes.io~configmap/config"),
		bind("/etc/checkout/tls", volumes+"kubernetes.io~secret/tls"),
		bind("/var/cache/checkout", volumes+"kubernetes.io~empty-dir/cache"),
	}
	if len(mounts) != mountsPerContainer || len(env) != envPerContainer {
		panic("the workload is not the one that is documented")
	}
	return &api.Container{
		Id:           identity("container", i),
		PodSandboxId: pod.Id,
		Name:         name,
		State:        api.ContainerState_CONTAINER_CREATED,
		Labels: map[string]string{
			"io.cri-containerd.kind":       "container",
			"io.kubernetes.container.name": name,
			"io.kubernetes.pod.name":       pod.Name,
			"io.kubernetes.pod.namespace":  pod.Namespace,
			"io.kubernetes.pod.uid":        pod.Uid,
		},
		Annotations: map[string]string{
			"io.kubernetes.container.hash":                     "5a5a5a5a",
			"io.kubernetes.container.restartCount":             "0",
			"io.kubernetes.container.terminationMessagePath":   "/dev/termination-log",
			"io.kubernetes.container.terminationMessagePolicy": "File",
			"io.kubernetes.pod.terminationGracePeriod":         "30",
			"io.kubernetes.cri.container-name":                 name,
			"io.kubernetes.cri.container-type":                 "container",
			"io.kubernetes.cri.image-name":                     "registry.example/shop/checkout:1.42.0",
			"io.kubernetes.cri.sandbox-id":                     pod.Id,
			"io.kubernetes.cri.sandbox-name":                   pod.Name,
			"io.kubernetes.cri.sandbox-namespace":              pod.Namespace,
			"io.kubernetes.cri.sandbox-uid":                    pod.Uid,
		},
		Args:   []string{"/usr/bin/checkout", "--listen", ":8080", "--config", "/etc/checkout/config.yaml"},
		Env:    env,
		Mounts: mounts,
		Linux: &api.LinuxContainer{
			Namespaces:  namespaces(1000 + i),
			Resources:   resources(),
			OomScoreAdj: api.Int(985),
			CgroupsPath: "/kubepods/burstable/pod" + pod.Uid + "/" + identity("container", i),
		},
		CreatedAt: 1772357400123456789,
	}
}

// adjusted makes of a container one that this project adjusted, as a runtime gives it back.
func (n *node) adjusted(c *api.Container) {
	c.Annotations["flox.dev/resolved-environment"] = n.environment
	c.Annotations["flox.dev/store-path"] = n.storePath
	c.Annotations["flox.dev/plugin-version"] = "1.0.0"
	c.Mounts = append(c.Mounts, bind("/nix/store", "/nix/var/nri-flox/"+identity("view", 1)+"/store"))
	c.Env = append(c.Env, "FLOX_ENV="+n.storePath)
}

func mount(destination, source, kind string, options ...string) *api.Mount {
	return &api.Mount{Destination: destination, Source: source, Type: kind, Options: options}
}

func bind(destination, source string) *api.Mount {
	return mount(destination, source, "bind", "rbind", "rprivate", "rw")
}

func namespaces(pid int) []*api.LinuxNamespace {
	out := []*api.LinuxNamespace{{Type: "pid"}, {Type: "mount"}}
	for _, kind := range []string{"network", "ipc", "uts"} {
		out = append(out, &api.LinuxNamespace{Type: kind, Path: fmt.Sprintf("/proc/%d/ns/%s", pid, kind)})
	}
	return out
}

func resources() *api.LinuxResources {
	return &api.LinuxResources{
		Memory: &api.LinuxMemory{Limit: api.Int64(536870912), Swap: api.Int64(536870912)},
		Cpu:    &api.LinuxCPU{Shares: api.UInt64(512), Quota: api.Int64(50000), Period: api.UInt64(100000)},
	}
}
